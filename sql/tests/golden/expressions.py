#!/usr/bin/env python3
"""Asks Spark what the expressions of expressions.json give, and writes its answers there.

    pip install pyspark==4.2.0
    python3 expressions.py

An answer is `gives`, the value as Spark casts it to a string (null for NULL), or `error`, the condition that it ended with.
"""
import json
import pathlib

from pyspark.sql import SparkSession

PATH = pathlib.Path(__file__).parent / "expressions.json"


def answer(spark, sql):
    try:
        row = spark.sql(f"SELECT {sql} AS x").selectExpr("CAST(x AS STRING)").collect()[0]
        return {"sql": sql, "gives": row[0]}
    except Exception as error:  # what Spark refuses is part of what it does
        condition = getattr(error, "getCondition", lambda: None)()
        return {"sql": sql, "error": condition or "?"}


def main():
    expressions = json.loads(PATH.read_text())["expressions"]
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    answers = [answer(spark, expression["sql"]) for expression in expressions]
    lines = ",\n".join("  " + json.dumps(answer, ensure_ascii=False) for answer in answers)
    PATH.write_text(f'{{\n "spark": "{spark.version}",\n "expressions": [\n{lines}\n ]\n}}\n')


main()
