#!/usr/bin/env python3
"""Writes ../unprintable.rs: the characters that Python's repr() escapes.

Usage: python3 make_unprintable.py > ../unprintable.rs
The tables of Python 3.11 (Unicode 14.0.0) are wanted; another Python is refused.
"""
import sys
import unicodedata

if unicodedata.unidata_version != "14.0.0":
    sys.exit(f"this Python has Unicode {unicodedata.unidata_version}; run with Python 3.11, which has 14.0.0")

ranges = []
for code in range(0x80, sys.maxunicode + 1):
    if chr(code).isprintable():
        continue
    if ranges and ranges[-1][1] == code - 1:
        ranges[-1][1] = code
    else:
        ranges.append([code, code])

print(f"""\
//! The characters outside ASCII that Python's `repr` escapes. Written by `golden/make_unprintable.py`.
//!
//! They are those for which `str.isprintable` is false in Python {sys.version_info.major}.{sys.version_info.minor} (Unicode {unicodedata.unidata_version}): control, format,
//! private, unassigned and surrogate characters, and all white space.

/// Whether Python escapes this character, which is not in ASCII.
pub(super) fn contains(character: char) -> bool {{
    let code = u32::from(character);
    let following = RANGES.partition_point(|&(first, _)| first <= code);
    following > 0 && code <= RANGES[following - 1].1
}}

/// First and last of each run, in order.
#[rustfmt::skip]
static RANGES: [(u32, u32); {len(ranges)}] = [""")
for start in range(0, len(ranges), 6):
    print("    " + " ".join(f"(0x{first:x}, 0x{last:x})," for first, last in ranges[start : start + 6]))
print("];")
