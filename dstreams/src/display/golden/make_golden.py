#!/usr/bin/env python3
"""Writes python.txt: what Python's print() and PySpark's pprint() show for each line of values.jsonl.

Usage, in this folder, with Java 17 and Python 3.11:

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install pyspark==3.5.1
    /tmp/golden/bin/python make_golden.py

Each line of values.jsonl holds one value, written as {"type": content}, or one block of a batch.
Each line of python.txt holds a name, a tab, and what was printed, with characters outside printable
ASCII, and the backslash, escaped as in Rust.
"""
import contextlib
import dataclasses
import io
import json
import os
import platform
import struct
import sys
import time
from datetime import datetime

import pyspark
from pyspark import SparkContext
from pyspark.sql import Row
from pyspark.streaming.dstream import DStream


def shortest_f32(text):
    """The double of fewest digits that is the f32 nearest to `text`."""
    value = struct.unpack("f", struct.pack("f", float(text)))[0]
    if value != value or value in (float("inf"), float("-inf")):
        return value
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.unpack("f", struct.pack("f", candidate))[0] == value:
            return candidate
    raise ValueError(text)


def build_struct(content):
    name, fields = content
    values = {field: build(value) for field, value in fields}
    if name == "Row":
        return Row(**values)
    return dataclasses.make_dataclass(name, list(values))(**values)


def build(tagged):
    ((tag, content),) = tagged.items()
    if tag in ("str", "char", "bool"):
        return content
    if tag == "f64":
        return float(content)
    if tag == "f32":
        return shortest_f32(content)
    if tag[0] in "iu" and tag[1:].isdigit():
        return int(content)
    if tag in ("unit", "none"):
        return None
    if tag == "some":
        return build(content)
    if tag == "tuple":
        return tuple(build(element) for element in content)
    if tag == "seq":
        return [build(element) for element in content]
    if tag == "map":
        return {build(key): build(value) for key, value in content}
    if tag == "bytes":
        return bytes(content)
    if tag == "struct":
        return build_struct(content)
    if tag == "unit_struct":
        return dataclasses.make_dataclass(content, [])()
    raise ValueError(f"unknown type {tag}")


class CapturedStream:
    """Stands for the stream: pprint() hands it the function that Spark calls for each batch."""

    def foreachRDD(self, function):
        self.function = function


def print_block(sc, block):
    os.environ["TZ"] = block["tz"]
    time.tzset()
    # As pyspark.streaming.util.TransformFunction.call does.
    batch_time = datetime.fromtimestamp(block["time_ms"] / 1000.0)
    stream = CapturedStream()
    DStream.pprint(stream, block["num"])
    stream.function(batch_time, sc.parallelize([build(row) for row in block["rows"]], 2))


def escape(text):
    shown = {"\\": "\\\\", "\n": "\\n"}
    return "".join(shown.get(c) or (c if " " <= c <= "~" else f"\\u{{{ord(c):x}}}") for c in text)


def printable_digest():
    """FNV-1a over one byte, 1 if printable, for each character from 0 on, without the surrogates."""
    digest = 0xCBF29CE484222325
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code <= 0xDFFF:
            digest = ((digest ^ chr(code).isprintable()) * 0x100000001B3) % 2**64
    return digest


def main():
    sc = SparkContext("local[1]", "golden")
    sc.setLogLevel("ERROR")
    with open("values.jsonl", encoding="utf-8") as source, open("python.txt", "w", encoding="ascii") as target:
        target.write(f"# Written by make_golden.py with PySpark {pyspark.__version__}, Python {platform.python_version()}\n")
        target.write(f"# printable {printable_digest():016x}\n")
        for line in source:
            case = json.loads(line)
            if case.get("only", "python") != "python":
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                if "block" in case:
                    print_block(sc, case["block"])
                else:
                    print(build(case["value"]))
            target.write(f"{case['name']}\t{escape(printed.getvalue())}\n")
    sc.stop()


main()
