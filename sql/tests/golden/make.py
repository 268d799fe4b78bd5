#!/usr/bin/env python3
"""Runs the cases of cases.json on Spark and writes what each batch gave into expected.json.

    pip install pyspark==4.2.0
    python3 make.py

A case reads files of lines, one a batch, as the view `t`; `sql` is its query. A batch's rows are written as Spark casts their cells to strings.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from pyspark.sql import SparkSession, functions as F

HERE = pathlib.Path(__file__).parent


def run(spark, case, folder):
    source = folder / "input"
    source.mkdir(parents=True)
    reader = spark.readStream.format(case.get("format", "csv"))
    if case.get("format") != "text":
        reader = reader.schema(case["schema"])
    for name, value in case.get("options", {}).items():
        reader = reader.option(name, value)
    now = time.time() - 10_000
    for number, lines in enumerate(case["files"]):
        path = source / f"{number:04}.txt"
        path.write_text("".join(line + "\n" for line in lines))
        os.utime(path, (now + number, now + number))
    batches = []

    def note(frame, number):
        cells = frame.select([F.col(f"`{name}`").cast("string") for name in frame.columns])
        rows = [list(row) for row in cells.collect()]
        if not case.get("sorted"):
            rows.sort(key=lambda row: [(cell is not None, cell or "") for cell in row])
        batches.append({"batch": number, "columns": frame.columns, "rows": rows})

    try:
        frame = reader.option("maxFilesPerTrigger", 1).load(str(source))
        if "watermark" in case:
            frame = frame.withWatermark(*case["watermark"])
        frame.createOrReplaceTempView("t")
        writer = spark.sql(case["sql"]).writeStream.foreachBatch(note).outputMode(case["mode"])
        writer = writer.option("checkpointLocation", str(folder / "checkpoint"))
        if case.get("trigger") == "once":
            writer = writer.trigger(once=True)
        else:
            writer = writer.trigger(availableNow=True)
        query = writer.start()
        query.awaitTermination()
    except Exception as error:  # what Spark refuses is part of what it does
        text = str(error).split("\n")[0]
        return {"error": text[:300], "batches": batches}
    return {"batches": batches}


def main():
    cases = json.loads((HERE / "cases.json").read_text())
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.shuffle.partitions", 2)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    only = sys.argv[1:]
    path = HERE / "expected.json"
    known = json.loads(path.read_text())["cases"] if only and path.exists() else {}
    expected = {}
    for case in cases:
        name = case["name"]
        if only and name not in only and name in known:
            expected[name] = known[name]
            continue
        folder = pathlib.Path(tempfile.mkdtemp())
        expected[name] = run(spark, case, folder)
        shutil.rmtree(folder)
        print(name, len(expected[name]["batches"]), expected[name].get("error", ""), flush=True)
    made = {"spark": spark.version, "cases": expected}
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


main()
