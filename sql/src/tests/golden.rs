//! Queries that give, batch by batch, what Spark gave for the same input: `tests/golden/expected.json`, made by `make.py` there. What differs on purpose stands in
//! `docs/structured-streaming-differences.md`, and only that. What has a counterpart over fixed data gives the same there.

mod frames;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millstream_common::config::Config;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use serde::Deserialize;

use crate::{
    DataFrame, DataStreamReader, Error, Master, Result, Session, Trigger, plan::origin::Origin,
    show::cell_text,
};

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    format: Option<String>,
    schema: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    files: Vec<Vec<String>>,
    #[serde(default)]
    watermark: Option<(String, String)>,
    #[serde(default)]
    sql: Option<String>,
    /// One of `frames`, instead of SQL.
    #[serde(default)]
    frame: Option<String>,
    mode: String,
    #[serde(default)]
    trigger: Option<String>,
    #[serde(default)]
    sorted: bool,
}

#[derive(Deserialize)]
struct Expected {
    cases: BTreeMap<String, Outcome>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Outcome {
    #[serde(default)]
    error: Option<String>,
    batches: Vec<Batch>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Batch {
    batch: u64,
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

fn session(folder: &Path) -> Session {
    let config = Config::builder()
        .conf("http.enabled", false)
        .conf("checkpoint.fsync", false)
        .conf("time.zone", "UTC")
        .build()
        .unwrap();
    Session::builder()
        .config(&config)
        .functions(frames::functions())
        .master(Master::Local { slots: 2 })
        .conf("parallelism", 2)
        .checkpoint(folder.to_str().unwrap())
        .build()
        .unwrap()
}

fn cells(frame: &DataFrame, sorted: bool) -> Result<Batch> {
    let columns = frame.schema();
    let columns = columns.fields().iter().map(|field| field.name().clone());
    let mut rows = Vec::new();
    for batch in frame.collect()? {
        for row in 0..batch.num_rows() {
            let mut cells = Vec::new();
            for column in batch.columns() {
                let text = cell_text(column.as_ref(), row, &jiff::tz::TimeZone::UTC)?;
                cells.push((!column.is_null(row)).then_some(text));
            }
            rows.push(cells);
        }
    }
    if !sorted {
        rows.sort();
    }
    Ok(Batch {
        batch: 0,
        columns: columns.collect(),
        rows,
    })
}

fn run(session: &Session, case: &Case, folder: &Path) -> Outcome {
    let batches: Arc<Mutex<Vec<Batch>>> = Arc::default();
    let noted = Arc::clone(&batches);
    let sorted = case.sorted;
    let ran = start_and_wait(session, case, folder, move |frame, number| {
        let batch = cells(&frame, sorted)?;
        noted.lock().push(Batch {
            batch: number,
            ..batch
        });
        Ok(())
    });
    let batches = batches.lock().clone();
    Outcome {
        error: ran.err().map(|error| error.to_string()),
        batches,
    }
}

fn start_and_wait(
    session: &Session,
    case: &Case,
    folder: &Path,
    note: impl Fn(DataFrame, u64) -> Result<()> + Send + Sync + 'static,
) -> Result<(), Error> {
    let input = folder.join("input");
    fs::create_dir_all(&input).unwrap();
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (number, lines) in case.files.iter().enumerate() {
        let path = input.join(format!("{number:04}.txt"));
        write(session, case, lines, &path);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(begin + Duration::from_secs(number as u64))
            .unwrap();
    }
    let reader = session.read_stream().option("maxFilesPerTrigger", 1);
    let trigger = match case.trigger.as_deref() {
        Some("once") => Trigger::Once,
        Some("default") => Trigger::Default,
        Some("processing") => Trigger::ProcessingTime(Duration::from_millis(100)),
        _ => Trigger::AvailableNow,
    };
    let ends = matches!(trigger, Trigger::Once | Trigger::AvailableNow);
    let query = query(session, case, folder, reader)?
        .write_stream()
        .for_each_batch(note)
        .output_mode(case.mode.as_str())
        .option(
            "checkpointLocation",
            folder.join("checkpoint").to_str().unwrap(),
        )
        .trigger(trigger)
        .start()?;
    if ends {
        return query.await_termination();
    }
    query.process_all_available()?;
    query.stop()
}

fn write(session: &Session, case: &Case, lines: &[String], path: &Path) {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if case.format.as_deref() != Some("parquet") {
        fs::write(path, lines).unwrap();
        return;
    }
    let input = path.parent().unwrap();
    let folder = input.with_file_name("lines");
    let folder = folder.join(path.file_name().unwrap());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("lines"), lines).unwrap();
    let reader = session.read().schema(case.schema.as_str());
    let rows = reader.csv(folder.to_str().unwrap()).unwrap();
    let schema = rows.schema();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
    for batch in rows.collect().unwrap() {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
}

fn reader_of(case: &Case, reader: DataStreamReader) -> DataStreamReader {
    let format = case.format.as_deref().unwrap_or("csv");
    let mut reader = reader.format(format);
    if format != "text" {
        reader = reader.schema(case.schema.as_str());
    }
    for (name, value) in &case.options {
        reader = reader.option(name, value);
    }
    reader
}

/// The case's query over what a reader reads.
fn query(
    session: &Session,
    case: &Case,
    folder: &Path,
    reader: DataStreamReader,
) -> Result<DataFrame> {
    let input = folder.join("input");
    let input = input.to_str().unwrap();
    let mut frame = reader_of(case, reader).load_from(input)?;
    if let Some((column, delay)) = &case.watermark {
        frame = frame.with_watermark(column, delay)?;
    }
    frame.create_or_replace_temp_view("t")?;
    match (&case.sql, &case.frame) {
        (Some(sql), None) => session.sql(sql),
        (None, Some(name)) => {
            let fixed = reader_of(case, session.read()).load_from(input)?;
            frames::frame(name, &frame, &fixed)
        }
        other => panic!("{}: {other:?}", case.name),
    }
}

/// What is wrong with what the query gives over fixed data, where it has a counterpart there.
fn differs_from_fixed(
    session: &Session,
    case: &Case,
    folder: &Path,
    ours: &Outcome,
) -> Option<String> {
    if ours.error.is_some() {
        return None;
    }
    let fixed = query(session, case, folder, session.read());
    let fixed = fixed.and_then(|frame| {
        let aggregates = Origin::of(frame.plan())? != Origin::default();
        Ok((aggregates, cells(&frame, case.sorted)?.rows))
    });
    let (aggregates, expected) = match fixed {
        Ok(fixed) => fixed,
        Err(error) => return Some(format!("over fixed data: {error}")),
    };
    let all = || ours.batches.iter().flat_map(|batch| batch.rows.clone());
    let is_same = match (case.mode.as_str(), aggregates) {
        ("complete", _) => {
            let newest = ours.batches.last().map(|batch| batch.rows.clone());
            same_rows(&newest.unwrap_or_default(), &expected)
        }
        (_, false) => {
            let mut rows: Vec<Row> = all().collect();
            rows.sort();
            same_rows(&rows, &expected)
        }
        // What a group came to in the end was written once at least. What is late is in no group.
        ("update", true) if case.watermark.is_none() && case.frame.is_none() => {
            let written: Vec<Row> = all().collect();
            let is_written = |row: &Row| written.iter().any(|written| same_row(written, row));
            expected.iter().all(is_written)
        }
        _ => true,
    };
    (!is_same).then(|| format!("{ours:?}\n   over fixed data {expected:?}"))
}

/// Long doubles that are computed in another order may differ in their last digits.
fn alike(ours: &Option<String>, theirs: &Option<String>) -> bool {
    if ours == theirs {
        return true;
    }
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return false;
    };
    let is_long = |text: &str| text.contains('.') && text.len() > 15;
    match (ours.parse::<f64>(), theirs.parse::<f64>()) {
        (Ok(a), Ok(b)) if is_long(ours) && is_long(theirs) => {
            (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
        }
        _ => false,
    }
}

type Row = Vec<Option<String>>;

fn same_row(ours: &Row, theirs: &Row) -> bool {
    let mut cells = ours.iter().zip(theirs);
    ours.len() == theirs.len() && cells.all(|(ours, theirs)| alike(ours, theirs))
}

fn same_rows(ours: &[Row], theirs: &[Row]) -> bool {
    let mut rows = ours.iter().zip(theirs);
    ours.len() == theirs.len() && rows.all(|(ours, theirs)| same_row(ours, theirs))
}

fn differ(ours: &Outcome, theirs: &Outcome) -> Option<String> {
    if ours.error.is_some() != theirs.error.is_some() {
        return Some(format!(
            "ended with {:?}, in Spark with {:?}",
            ours.error, theirs.error
        ));
    }
    if ours.error.is_some() {
        return None;
    }
    if ours.batches.len() != theirs.batches.len() {
        return Some(format!(
            "{} batches, in Spark {}: {:?}",
            ours.batches.len(),
            theirs.batches.len(),
            ours.batches
        ));
    }
    for (ours, theirs) in ours.batches.iter().zip(&theirs.batches) {
        let same_rows = same_rows(&ours.rows, &theirs.rows);
        if ours.batch != theirs.batch || ours.columns != theirs.columns || !same_rows {
            return Some(format!("{ours:?}\n   in Spark {theirs:?}"));
        }
    }
    None
}

/// Cases that the docs list: `| `name` |` begins their rows.
fn documented() -> Vec<String> {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/structured-streaming-differences.md"
    );
    let page = fs::read_to_string(page).unwrap();
    let mut names = Vec::new();
    for line in page.lines() {
        let Some(first) = line
            .strip_prefix("| ")
            .and_then(|row| row.split('|').next())
        else {
            continue;
        };
        let cells = first.split(',').map(|name| {
            let name = name.trim().strip_prefix('`')?.strip_suffix('`')?;
            Some(name.to_owned())
        });
        // Other rows begin with words.
        if let Some(of_row) = cells.collect::<Option<Vec<String>>>() {
            names.extend(of_row);
        }
    }
    names
}

#[test]
fn queries_give_what_spark_gave() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name: &str| fs::read_to_string(golden.join(name)).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&read("cases.json")).unwrap();
    let expected: Expected = serde_json::from_str(&read("expected.json")).unwrap();
    assert_eq!(cases.len(), expected.cases.len());
    let documented = documented();
    for name in &documented {
        assert!(expected.cases.contains_key(name), "no case {name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let session = session(&folder.path().join("root"));
    let only = std::env::var("GOLDEN").ok();
    let mut wrong = Vec::new();
    for case in &cases {
        if only.as_ref().is_some_and(|only| !case.name.contains(only)) {
            continue;
        }
        let own = folder.path().join(&case.name);
        let ours = run(&session, case, &own);
        if let Some(what) = differs_from_fixed(&session, case, &own, &ours) {
            wrong.push(format!("{}: {what}", case.name));
        }
        let difference = differ(&ours, &expected.cases[&case.name]);
        match (difference, documented.contains(&case.name)) {
            (Some(what), false) => wrong.push(format!("{}: {what}", case.name)),
            (None, true) => wrong.push(format!(
                "{}: is as in Spark, but the docs list a difference",
                case.name
            )),
            _ => {}
        }
    }
    session.stop().unwrap();
    assert!(
        wrong.is_empty(),
        "{}\n{} wrong",
        wrong.join("\n"),
        wrong.len()
    );
}
