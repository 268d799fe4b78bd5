//! Expressions give what Spark gives for them: `tests/golden/expressions.json`, answered by `expressions.py` there. Where they don't, the docs have both answers
//! in a row of `docs/structured-streaming-differences.md`, and rows that aren't so are wrong.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use arrow::datatypes::DataType;
use millstream_common::config::Config;
use serde::Deserialize;

use crate::{Error, Master, Session, show::cell_text};

#[derive(Deserialize)]
struct Answers {
    expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    sql: String,
    #[serde(default)]
    gives: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

const AN_ERROR: &str = "an error";

/// As a row of the docs says it.
fn said(value: Option<String>) -> String {
    match value {
        Some(text) => format!("`{text}`"),
        None => "`NULL`".to_owned(),
    }
}

impl Expression {
    fn in_spark(&self) -> String {
        match &self.error {
            Some(_) => AN_ERROR.to_owned(),
            None => said(self.gives.clone()),
        }
    }
}

fn computed(session: &Session, sql: &str) -> Result<Option<String>, Error> {
    let rows = session.sql(&format!("SELECT {sql} AS x"))?.collect()?;
    let mut column = Arc::clone(rows[0].column(0));
    // Tables show bytes as numbers; a cast makes them a text.
    if *column.data_type() == DataType::Binary {
        column = arrow::compute::cast(&column, &DataType::Utf8)?;
    }
    if column.is_null(0) {
        return Ok(None);
    }
    cell_text(column.as_ref(), 0, &jiff::tz::TimeZone::UTC).map(Some)
}

/// What the docs say: the answers of Spark and of ours, by expression. Their rows are `| what | expression | Spark | here |`.
fn documented() -> BTreeMap<String, (String, String)> {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/structured-streaming-differences.md"
    );
    let page = fs::read_to_string(page).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            continue;
        };
        // A bar within a cell is written with a backslash.
        let row = row.replace("\\|", "\u{0}");
        let cells: Vec<String> = row
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect();
        let expression = cells.get(1).and_then(|cell| cell.strip_prefix('`'));
        let expression = expression.and_then(|cell| cell.strip_suffix('`'));
        if let (Some(expression), [_, _, spark, here, _]) = (expression, cells.as_slice()) {
            let answers = (spark.clone(), here.clone());
            let twice = rows.insert(expression.to_owned(), answers);
            assert!(twice.is_none(), "{expression} has two rows");
        }
    }
    rows
}

#[test]
fn expressions_give_what_spark_gives_or_the_docs_have_both_answers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/expressions.json");
    let answers: Answers = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    let config = Config::builder()
        .conf("http.enabled", false)
        .conf("time.zone", "UTC")
        .build()
        .unwrap();
    let session = Session::builder()
        .config(&config)
        .master(Master::Local { slots: 1 })
        .build()
        .unwrap();
    let mut documented = documented();
    let mut wrong = Vec::new();
    for expression in &answers.expressions {
        let sql = &expression.sql;
        let spark = expression.in_spark();
        let ours = computed(&session, sql);
        let here = match &ours {
            Ok(value) => said(value.clone()),
            Err(_) => AN_ERROR.to_owned(),
        };
        let row = documented.remove(sql);
        let expected = (spark != here).then_some((spark, here));
        if row != expected {
            wrong.push(format!(
                "`{sql}` is {expected:?} ({ours:?}), in the docs {row:?}"
            ));
        }
    }
    session.stop().unwrap();
    wrong.extend(
        documented
            .keys()
            .map(|sql| format!("`{sql}` of the docs has no answer of Spark")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
