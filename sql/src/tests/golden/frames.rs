//! Queries of the DataFrame API, and functions of the program; `FRAMES` of `make.py` has the same.

use std::sync::Arc;

use crate::{
    DataFrame, GroupedData, Registry, Result,
    arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{DataType, Int64Type},
    },
    avg, cast, col, count, explode, from_json, lit, max, min, split, sum, window, window_sliding,
};

pub(super) fn functions() -> Registry {
    let mut registry = Registry::default();
    let text = [DataType::Utf8];
    registry.register("initial", &text, DataType::Utf8, |columns| {
        let texts = columns[0].as_string::<i32>().iter();
        let initials = texts.map(|text| text.map(|text| text.chars().take(1).collect::<String>()));
        Ok(Arc::new(StringArray::from_iter(initials)))
    });
    let number = [DataType::Int64];
    registry.register("doubled", &number, DataType::Int64, |columns| {
        let numbers = columns[0].as_primitive::<Int64Type>().iter();
        let doubled = numbers.map(|number| number.map(|number| number * 2));
        Ok(Arc::new(Int64Array::from_iter(doubled)))
    });
    registry
}

fn agg(groups: &GroupedData) -> Result<DataFrame> {
    groups.agg([
        count(lit(1i64)).alias("n"),
        count(col("salary")).alias("m"),
        sum(col("salary")).alias("s"),
        avg(col("salary")).alias("a"),
        min(col("name")).alias("lo"),
        max(col("salary")).alias("hi"),
    ])
}

pub(super) fn frame(name: &str, t: &DataFrame, fixed: &DataFrame) -> Result<DataFrame> {
    let watched = || t.with_watermark("at", "10 minutes");
    let by_job = || t.group_by(["job"]);
    match name {
        "with_column_new" => t.with_column("doubled", col("salary") * lit(2)),
        "with_column_in_place" => t
            .with_column("name", "upper(name)")?
            .with_column("id", col("id") + lit(1)),
        "with_column_condition" => t
            .with_column("rich", col("salary").gt(lit(50)))?
            .filter("rich")?
            .select(["id", "rich"]),
        "alias_columns" => t.select([
            col("id").alias("number"),
            (col("salary") * lit(2)).alias("double pay"),
            col("job"),
        ]),
        "alias_key" => t
            .group_by([col("job").alias("j")])?
            .agg([count(lit(1i64)).alias("n"), sum(col("id")).alias("s")]),
        "select_where" => t.where_("job IS NOT NULL")?.select(["id", "job"]),
        "filter_frame" => t
            .filter(col("salary").gt(lit(20)))?
            .filter(col("id").lt(lit(9)))?
            .select(["id", "salary"]),
        "union_frames" => t
            .filter("id < 4")?
            .select(["id", "name"])?
            .union(&t.filter("id > 6")?.select(["id", "job"])?),
        "union_counted" => t
            .select(["job"])?
            .union(&t.select(["name"])?)?
            .group_by(["job"])?
            .count(),
        "union_static" => t.select(["id"])?.union(&fixed.select(["id"])?),
        "union_watermark_first" => watched()?.union(t)?.group_by(["at"])?.count(),
        "union_watermark_second" => t.union(&watched()?)?.group_by(["at"])?.count(),
        "explode_counted" => t
            .select([explode(split(col("value"), " ")).alias("w")])?
            .group_by(["w"])?
            .count(),
        "casts_frame" => t.select([
            cast(col("id"), DataType::Utf8).alias("s"),
            cast(col("id"), DataType::Float64).alias("d"),
            cast(col("id"), DataType::Int64).alias("l"),
            cast(col("name"), DataType::Utf8).alias("n"),
        ]),
        "from_json_frame" => t
            .select([from_json(col("value"), "a INT, b STRING").alias("j")])?
            .with_column("a", "j.a")?
            .with_column("b", "j.b")?
            .select(["a", "b"]),
        "agg_frame" => agg(&by_job()?),
        "global_frame" => agg(&t.group_by::<&str>([])?),
        "group_count" => by_job()?.count(),
        "group_sum" => by_job()?.sum(&["salary", "id"]),
        "group_avg" => by_job()?.avg(&["salary", "id"]),
        "group_min" => by_job()?.min(&["salary", "id"]),
        "group_max" => by_job()?.max(&["salary", "id"]),
        "sorted_frame" => by_job()?.count()?.order_by(["count", "job"]),
        "window_frame" => watched()?
            .group_by([window(col("at"), "10 minutes"), col("k")])?
            .agg([sum(col("v")).alias("v")]),
        "window_sliding_frame" => {
            let windows = window_sliding(col("at"), "10 minutes", "5 minutes", "1 minute");
            watched()?.group_by([windows])?.count()
        }
        "divide_frame" => t.select([(col("id") / lit(2)).alias("half")]),
        "udf_frame" => {
            let initial = t.call("initial", vec![col("name")])?;
            t.group_by([initial.alias("i")])?.count()
        }
        other => panic!("there is no frame {other}"),
    }
}
