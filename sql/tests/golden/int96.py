#!/usr/bin/env python3
"""Lets Spark write int96.parquet: times of 96 bits, as it writes them unless told otherwise, and the microseconds that they are.

    pip install pyspark==4.2.0
    python3 int96.py
"""
import pathlib
import shutil
import tempfile

from pyspark.sql import SparkSession

PATH = pathlib.Path(__file__).parent / "int96.parquet"
TIMES = [
    "1970-01-01 00:00:00",
    "2026-01-15 12:00:00.123456",
    "1969-12-31 23:59:59.999999",
    "1600-02-29 01:02:03.000004",
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
    "2262-04-11 23:47:16.854776",
    "1677-09-21 00:12:43.145223",
    None,
]


def main():
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "INT96")
        .config("spark.sql.parquet.int96RebaseModeInWrite", "CORRECTED")
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    rows = spark.createDataFrame([(number, text) for number, text in enumerate(TIMES)], "id INT, text STRING")
    rows = rows.selectExpr("id", "CAST(text AS TIMESTAMP) AS at").selectExpr(
        "id",
        "at",
        "unix_micros(at) AS micros",
        "named_struct('id', id, 'at', at) AS inside",
        "array(at) AS list",
        "map('at', at) AS map",
    )
    folder = pathlib.Path(tempfile.mkdtemp())
    rows.coalesce(1).write.mode("overwrite").parquet(str(folder))
    shutil.move(next(folder.glob("*.parquet")), PATH)
    shutil.rmtree(folder)


main()
