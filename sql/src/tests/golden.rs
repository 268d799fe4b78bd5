//! Queries that give, batch by batch, what Spark gave for the same input: `tests/golden/expected.json`, made by `make.py` there. What differs on purpose stands in
//! `docs/structured-streaming-differences.md`, and only that.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millstream_common::config::Config;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::{DataFrame, Error, Master, Result, Session, Trigger, show::cell_text};

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
    sql: String,
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
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, lines).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(begin + Duration::from_secs(number as u64))
            .unwrap();
    }
    let format = case.format.as_deref().unwrap_or("csv");
    let mut reader = session
        .read_stream()
        .format(format)
        .option("maxFilesPerTrigger", 1);
    if format != "text" {
        reader = reader.schema(case.schema.as_str());
    }
    for (name, value) in &case.options {
        reader = reader.option(name, value);
    }
    let mut frame = reader.load_from(input.to_str().unwrap())?;
    if let Some((column, delay)) = &case.watermark {
        frame = frame.with_watermark(column, delay)?;
    }
    frame.create_or_replace_temp_view("t")?;
    let trigger = match case.trigger.as_deref() {
        Some("once") => Trigger::Once,
        _ => Trigger::AvailableNow,
    };
    session
        .sql(&case.sql)?
        .write_stream()
        .for_each_batch(note)
        .output_mode(case.mode.as_str())
        .option(
            "checkpointLocation",
            folder.join("checkpoint").to_str().unwrap(),
        )
        .trigger(trigger)
        .start()?
        .await_termination()
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
        let same_rows = ours.rows.len() == theirs.rows.len()
            && ours
                .rows
                .iter()
                .flatten()
                .zip(theirs.rows.iter().flatten())
                .all(|(ours, theirs)| alike(ours, theirs));
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
        for name in first.split(',') {
            let name = name.trim();
            if let Some(name) = name
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'))
            {
                names.push(name.to_owned());
            }
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
        let ours = run(&session, case, &folder.path().join(&case.name));
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
