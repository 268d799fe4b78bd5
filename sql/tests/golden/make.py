#!/usr/bin/env python3
"""Runs the cases of cases.json on Spark and writes what each batch gave into expected.json.

    pip install pyspark==4.2.0
    python3 make.py [NAME... | --missing]

With names, only those cases run, with `--missing` those that expected.json lacks. A case reads files of lines, one a batch, as the view `t`; `sql` is its query, or `frame` names one of FRAMES. Lines of a case of format `parquet` are
CSV that is written as Parquet. A batch's rows are written as Spark casts their cells to strings.
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


def doubled(number):
    return None if number is None else number * 2


def initial(text):
    return None if text is None else text[:1]


def agg(groups):
    salary = "salary"
    return groups.agg(
        F.count("*").alias("n"),
        F.count(salary).alias("m"),
        F.sum(salary).alias("s"),
        F.avg(salary).alias("a"),
        F.min("name").alias("lo"),
        F.max(salary).alias("hi"),
    )


def from_json(t):
    t = t.select(F.from_json(F.col("value"), "a INT, b STRING").alias("j"))
    return t.withColumn("a", F.expr("j.a")).withColumn("b", F.expr("j.b")).select("a", "b")


# Queries of the DataFrame API; src/tests/golden/frames.rs has the same. `fixed` is what `t` reads, as it is.
FRAMES = {
    "with_column_new": lambda t, fixed: t.withColumn("doubled", F.col("salary") * 2),
    "with_column_in_place": lambda t, fixed: t.withColumn("name", F.upper("name")).withColumn("id", F.col("id") + 1),
    "with_column_condition": lambda t, fixed: t.withColumn("rich", F.col("salary") > 50).filter("rich").select("id", "rich"),
    "alias_columns": lambda t, fixed: t.select(F.col("id").alias("number"), (F.col("salary") * 2).alias("double pay"), F.col("job")),
    "alias_key": lambda t, fixed: t.groupBy(F.col("job").alias("j")).agg(F.count("*").alias("n"), F.sum("id").alias("s")),
    "select_where": lambda t, fixed: t.where("job IS NOT NULL").select("id", "job"),
    "filter_frame": lambda t, fixed: t.filter(F.col("salary") > 20).filter(F.col("id") < 9).select("id", "salary"),
    "union_frames": lambda t, fixed: t.filter("id < 4").select("id", "name").union(t.filter("id > 6").select("id", "job")),
    "union_counted": lambda t, fixed: t.select("job").union(t.select("name")).groupBy("job").count(),
    "union_static": lambda t, fixed: t.select("id").union(fixed.select("id")),
    "union_watermark_first": lambda t, fixed: t.withWatermark("at", "10 minutes").union(t).groupBy("at").count(),
    "union_watermark_second": lambda t, fixed: t.union(t.withWatermark("at", "10 minutes")).groupBy("at").count(),
    "explode_counted": lambda t, fixed: t.select(F.explode(F.split("value", " ")).alias("w")).groupBy("w").count(),
    "casts_frame": lambda t, fixed: t.select(
        F.col("id").cast("string").alias("s"),
        F.col("id").cast("double").alias("d"),
        F.col("id").cast("bigint").alias("l"),
        F.col("name").cast("string").alias("n"),
    ),
    "from_json_frame": lambda t, fixed: from_json(t),
    "agg_frame": lambda t, fixed: agg(t.groupBy("job")),
    "global_frame": lambda t, fixed: agg(t.groupBy()),
    "group_count": lambda t, fixed: t.groupBy("job").count(),
    "group_sum": lambda t, fixed: t.groupBy("job").sum("salary", "id"),
    "group_avg": lambda t, fixed: t.groupBy("job").avg("salary", "id"),
    "group_min": lambda t, fixed: t.groupBy("job").min("salary", "id"),
    "group_max": lambda t, fixed: t.groupBy("job").max("salary", "id"),
    "sorted_frame": lambda t, fixed: t.groupBy("job").count().orderBy("count", "job"),
    "window_frame": lambda t, fixed: t.withWatermark("at", "10 minutes").groupBy(F.window("at", "10 minutes"), "k").agg(F.sum("v").alias("v")),
    "window_sliding_frame": lambda t, fixed: t.withWatermark("at", "10 minutes").groupBy(F.window("at", "10 minutes", "5 minutes", "1 minute")).count(),
    "divide_frame": lambda t, fixed: t.select((F.col("id") / 2).alias("half")),
    "udf_frame": lambda t, fixed: t.groupBy(F.call_udf("initial", F.col("name")).alias("i")).count(),
}


def write(spark, case, lines, path):
    if case.get("format") != "parquet":
        path.write_text("".join(line + "\n" for line in lines))
        return
    written = pathlib.Path(tempfile.mkdtemp())
    rows = spark.read.schema(case["schema"]).csv(spark.sparkContext.parallelize(lines, 1))
    rows.coalesce(1).write.mode("overwrite").parquet(str(written))
    part = next(written.glob("*.parquet"))
    shutil.move(part, path)
    shutil.rmtree(written)


def run(spark, case, folder):
    source = folder / "input"
    source.mkdir(parents=True)

    def reading(reader):
        reader = reader.format(case.get("format", "csv"))
        if case.get("format") != "text":
            reader = reader.schema(case["schema"])
        return reader.options(**case.get("options", {}))

    now = time.time() - 10_000
    for number, lines in enumerate(case["files"]):
        path = source / f"{number:04}.txt"
        write(spark, case, lines, path)
        os.utime(path, (now + number, now + number))
    batches = []

    def note(frame, number):
        cells = frame.select([F.col(f"`{name}`").cast("string") for name in frame.columns])
        rows = [list(row) for row in cells.collect()]
        if not case.get("sorted"):
            rows.sort(key=lambda row: [(cell is not None, cell or "") for cell in row])
        batches.append({"batch": number, "columns": frame.columns, "rows": rows})

    try:
        frame = reading(spark.readStream).option("maxFilesPerTrigger", 1).load(str(source))
        if "watermark" in case:
            frame = frame.withWatermark(*case["watermark"])
        frame.createOrReplaceTempView("t")
        if "frame" in case:
            result = FRAMES[case["frame"]](frame, reading(spark.read).load(str(source)))
        else:
            result = spark.sql(case["sql"])
        writer = result.writeStream.foreachBatch(note).outputMode(case["mode"])
        writer = writer.option("checkpointLocation", str(folder / "checkpoint"))
        trigger = case.get("trigger")
        if trigger in ("default", "processing"):
            if trigger == "processing":
                writer = writer.trigger(processingTime="100 milliseconds")
            query = writer.start()
            query.processAllAvailable()
            query.stop()
        else:
            query = writer.trigger(once=True) if trigger == "once" else writer.trigger(availableNow=True)
            query.start().awaitTermination()
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
    spark.udf.register("initial", initial, "string")
    spark.udf.register("doubled", doubled, "bigint")
    only = sys.argv[1:]
    path = HERE / "expected.json"
    known = json.loads(path.read_text())["cases"] if only and path.exists() else {}
    if only == ["--missing"]:
        only = [case["name"] for case in cases if case["name"] not in known]
    expected = {}
    for case in cases:
        name = case["name"]
        if only and name not in only:
            if name in known:
                expected[name] = known[name]
            continue
        folder = pathlib.Path(tempfile.mkdtemp())
        expected[name] = run(spark, case, folder)
        shutil.rmtree(folder)
        print(name, len(expected[name]["batches"]), expected[name].get("error", ""), flush=True)
    made = {"spark": spark.version, "cases": expected}
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


main()
