//! Word count from Kafka and from files, by both APIs: the rate of batches of equal size that run back to back, the first ones left out.

use std::{collections::BTreeMap, path::Path};

use millstream_integration_tests::cluster::Application;
use tempfile::TempDir;

use crate::{
    Error, Setting,
    ours::{self, Batch},
    sizes::SPLITS,
    spark::{DSTREAMS, LOCAL, STRUCTURED, Spark},
    table::{Figure, Row, Unit},
};

/// Words of a line of the corpus.
pub const WORDS_PER_LINE: u64 = 10;

/// Who counts words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    Nothing,
    Borrowed,
    Owned,
    Text,
    Strings,
    Query,
    Structured,
    StructuredByBatch,
    DStreams,
}

impl Contender {
    fn all(with_spark: bool) -> Vec<Self> {
        let mut all = vec![
            Self::Nothing,
            Self::Borrowed,
            Self::Text,
            Self::Owned,
            Self::Strings,
        ];
        if with_spark {
            all.extend([Self::Structured, Self::StructuredByBatch, Self::DStreams]);
        }
        all
    }

    /// Of a structured query.
    fn structured(with_spark: bool) -> Vec<Self> {
        let mut all = vec![Self::Query, Self::Text];
        if with_spark {
            all.push(Self::Structured);
        }
        all
    }
}

type Rates = BTreeMap<Contender, Vec<f64>>;

/// Where the lines come from.
trait Source {
    /// The same for the hand-written programs.
    fn handwritten(&self, words: &str) -> Vec<String>;
    /// Ours, still without a kind of string. Its files go to `folder`.
    fn ours(&self, setting: &Setting, folder: &Path) -> Result<Application, Error>;
    /// Ours as a structured query. Its files go to `folder`.
    fn query(&self, setting: &Setting, folder: &Path) -> Result<Application, Error>;
    /// For Structured Streaming, still without `running` or `batch`.
    fn structured(&self, setting: &Setting) -> Vec<String>;
    /// For DStreams.
    fn dstreams(&self, setting: &Setting) -> Vec<String>;
}

struct Topic {
    brokers: String,
    topic: &'static str,
}

impl Source for Topic {
    fn handwritten(&self, words: &str) -> Vec<String> {
        strings(&["kafka", &self.brokers, self.topic, "--words", words])
    }

    fn ours(&self, setting: &Setting, folder: &Path) -> Result<Application, Error> {
        setting.words_from_kafka(folder)
    }

    fn query(&self, setting: &Setting, folder: &Path) -> Result<Application, Error> {
        setting.running_words_from_kafka(folder)
    }

    fn structured(&self, setting: &Setting) -> Vec<String> {
        let rows = setting.sizes.batch_lines.to_string();
        strings(&["kafka", &self.brokers, self.topic, &rows])
    }

    fn dstreams(&self, setting: &Setting) -> Vec<String> {
        let rows = (setting.sizes.batch_lines / SPLITS).to_string();
        let batches = setting.sizes.batches().to_string();
        strings(&["kafka", &self.brokers, self.topic, &rows, &batches])
    }
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn path(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }
}

impl Source for Files {
    fn handwritten(&self, words: &str) -> Vec<String> {
        strings(&["files", &self.path(), "--words", words])
    }

    fn ours(&self, setting: &Setting, folder: &Path) -> Result<Application, Error> {
        Ok(setting
            .ours
            .words(folder)?
            .args(["--dir", &self.path()])
            .conf("files.max_files_per_batch", SPLITS))
    }

    fn query(&self, setting: &Setting, folder: &Path) -> Result<Application, Error> {
        let query = setting.ours.query(folder, ours::MASTER, "words")?;
        let files = SPLITS.to_string();
        Ok(query.args(["--dir", &self.path(), "--per-batch", &files]))
    }

    fn structured(&self, _: &Setting) -> Vec<String> {
        strings(&["files", &self.path(), &SPLITS.to_string()])
    }

    fn dstreams(&self, setting: &Setting) -> Vec<String> {
        let rows = setting.sizes.batch_lines.to_string();
        let batches = setting.sizes.batches().to_string();
        strings(&["files", &self.path(), &SPLITS.to_string(), &rows, &batches])
    }
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

fn borrowed(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

/// Runs our word count over all lines, and gives its batches.
fn count(
    setting: &Setting,
    mut application: Application,
    strings: bool,
) -> Result<Vec<Batch>, Error> {
    if strings {
        application = application.args(["--strings"]);
    }
    let driver = application.start_driver()?;
    let expected = setting.sizes.lines * WORDS_PER_LINE;
    ours::wait_words(&driver, expected)?;
    let batches = ours::wait_batches(&driver, setting.sizes.lines)?;
    Ok(batches)
}

fn handwritten(setting: &Setting, source: &dyn Source, words: &str) -> Result<f64, Error> {
    let said = setting.ours.ask(&borrowed(&source.handwritten(words)))?;
    if said["lines"].as_u64() != Some(setting.sizes.lines) {
        return Err(format!("the hand-written program counted other lines: {said}").into());
    }
    Ok(said["lines_per_second"]
        .as_f64()
        .ok_or("the hand-written program says no rate")?)
}

fn rate(setting: &Setting, source: &dyn Source, contender: Contender) -> Result<f64, Error> {
    let warm = setting.sizes.warm_batches;
    let of_spark = |program: &str, arguments: Vec<String>| -> Result<f64, Error> {
        let spark: &Spark = setting.spark.as_ref().ok_or("Spark is left out")?;
        let batches = spark.run(program, LOCAL, &borrowed(&arguments))?;
        let lines: u64 = batches.iter().map(|batch| batch.rows).sum();
        if lines != setting.sizes.lines {
            return Err(format!("{program} counted {lines} lines").into());
        }
        Ok(ours::steady_rate(&batches, warm))
    };
    let of_ours = |strings: bool| -> Result<f64, Error> {
        let folder = tempfile::tempdir()?;
        let application = source.ours(setting, folder.path())?;
        let batches = count(setting, application, strings)?;
        Ok(ours::steady_rate(&batches, warm))
    };
    let of_query = || -> Result<f64, Error> {
        let folder = tempfile::tempdir()?;
        let driver = source.query(setting, folder.path())?.start_driver()?;
        let batches = ours::run_query(&driver.process)?;
        let lines: u64 = batches.iter().map(|batch| batch.rows).sum();
        if lines != setting.sizes.lines {
            return Err(format!("the query counted {lines} lines").into());
        }
        Ok(ours::steady_rate(&batches, warm))
    };
    let structured = |kind: &str| {
        let mut arguments = source.structured(setting);
        arguments.push(kind.to_owned());
        arguments
    };
    match contender {
        Contender::Nothing => handwritten(setting, source, "none"),
        Contender::Borrowed => handwritten(setting, source, "borrowed"),
        Contender::Owned => handwritten(setting, source, "owned"),
        Contender::Text => of_ours(false),
        Contender::Strings => of_ours(true),
        Contender::Query => of_query(),
        Contender::Structured => of_spark(STRUCTURED, structured("running")),
        Contender::StructuredByBatch => of_spark(STRUCTURED, structured("batch")),
        Contender::DStreams => of_spark(DSTREAMS, source.dstreams(setting)),
    }
}

fn by_turns(
    setting: &Setting,
    source: &dyn Source,
    contenders: &[Contender],
) -> Result<Rates, Error> {
    let mut rates = Rates::new();
    for repeat in 1..=setting.sizes.repeats {
        for contender in contenders.iter().copied() {
            let rate = rate(setting, source, contender)
                .map_err(|error| format!("{contender:?}: {error}"))?;
            eprintln!("   {repeat}: {contender:?}: {:.2} M lines/s", rate / 1e6);
            rates.entry(contender).or_default().push(rate);
        }
    }
    Ok(rates)
}

fn figure(rates: &Rates, contender: Contender) -> Option<Figure> {
    let samples = rates.get(&contender)?.clone();
    Some(Figure::median(Unit::LinesPerSecond, samples))
}

/// A row for each peer that ran.
struct Rows<'r> {
    rates: &'r Rates,
    from: &'static str,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn add(
        &mut self,
        ours: (&str, Contender),
        peer: (&str, Contender),
        judge: impl FnOnce(Row) -> Row,
    ) {
        let found = figure(self.rates, ours.1).zip(figure(self.rates, peer.1));
        if let Some((our_figure, peer_figure)) = found {
            let what = format!("word count from {}, {}", self.from, ours.0);
            let row = Row::of(what, our_figure).beside(peer.0, peer_figure);
            self.rows.push(judge(row));
        }
    }
}

const TEXT: (&str, Contender) = ("`Text`", Contender::Text);
const STRINGS: (&str, Contender) = ("`String`", Contender::Strings);
const QUERY: (&str, Contender) = ("a structured query, running counts", Contender::Query);
const OWN_DSTREAM: (&str, Contender) = (
    "ours on DStreams, `Text`, each batch by itself",
    Contender::Text,
);
const NOTHING: (&str, Contender) = ("hand-written, lines read only", Contender::Nothing);
const BORROWED: (&str, Contender) = ("hand-written, borrowed words", Contender::Borrowed);
const OWNED: (&str, Contender) = ("hand-written, `String`s", Contender::Owned);
const RUNNING: (&str, Contender) = (
    "Structured Streaming 4.2, running counts",
    Contender::Structured,
);
const BY_BATCH: (&str, Contender) = (
    "Structured Streaming 4.2, each batch by itself",
    Contender::StructuredByBatch,
);
const DSTREAMS_SCALA: (&str, Contender) = ("DStreams 3.5 in Scala", Contender::DStreams);

fn topic(setting: &Setting) -> Result<Topic, Error> {
    Ok(Topic {
        brokers: setting.kafka.brokers(&setting.ours)?,
        topic: setting.kafka.topic(),
    })
}

fn files(setting: &Setting) -> Result<Files, Error> {
    let source = Files {
        folder: tempfile::tempdir()?,
    };
    setting.ours.write_files(
        source.folder.path(),
        setting.sizes.lines,
        setting.sizes.files(),
    )?;
    Ok(source)
}

/// From a topic of four partitions.
pub fn from_kafka(setting: &Setting) -> Result<Vec<Row>, Error> {
    let contenders = Contender::all(setting.spark.is_some());
    let rates = by_turns(setting, &topic(setting)?, &contenders)?;
    let mut rows = Rows {
        rates: &rates,
        from: "Kafka",
        rows: vec![],
    };
    rows.add(TEXT, BORROWED, |row| row.by_share().floor(0.7).goal(0.9));
    rows.add(TEXT, RUNNING, |row| row.by_ratio().floor(3.5).goal(4.5));
    rows.add(TEXT, DSTREAMS_SCALA, |row| row.by_ratio().goal(2.3));
    rows.add(TEXT, BY_BATCH, Row::by_ratio);
    rows.add(TEXT, NOTHING, Row::by_share);
    rows.add(STRINGS, OWNED, Row::by_share);
    rows.add(STRINGS, RUNNING, Row::by_ratio);
    rows.add(STRINGS, DSTREAMS_SCALA, Row::by_ratio);
    Ok(rows.rows)
}

/// From files, four a batch.
pub fn from_files(setting: &Setting) -> Result<Vec<Row>, Error> {
    let contenders = Contender::all(setting.spark.is_some());
    let rates = by_turns(setting, &files(setting)?, &contenders)?;
    let mut rows = Rows {
        rates: &rates,
        from: "files",
        rows: vec![],
    };
    rows.add(TEXT, BORROWED, |row| row.by_share().floor(0.6).goal(0.8));
    rows.add(TEXT, RUNNING, |row| row.by_ratio().floor(5.0).goal(7.0));
    rows.add(TEXT, DSTREAMS_SCALA, Row::by_ratio);
    rows.add(TEXT, BY_BATCH, Row::by_ratio);
    rows.add(STRINGS, OWNED, |row| row.by_share().goal(0.9));
    rows.add(STRINGS, RUNNING, Row::by_ratio);
    rows.add(STRINGS, DSTREAMS_SCALA, Row::by_ratio);
    Ok(rows.rows)
}

/// From the topic, as a structured query.
pub fn sql_from_kafka(setting: &Setting) -> Result<Vec<Row>, Error> {
    structured_rows(setting, &topic(setting)?, "Kafka", 3.5, 4.5)
}

/// From the files, as a structured query.
pub fn sql_from_files(setting: &Setting) -> Result<Vec<Row>, Error> {
    structured_rows(setting, &files(setting)?, "files", 5.0, 7.0)
}

fn structured_rows(
    setting: &Setting,
    source: &dyn Source,
    from: &'static str,
    floor: f64,
    goal: f64,
) -> Result<Vec<Row>, Error> {
    let contenders = Contender::structured(setting.spark.is_some());
    let rates = by_turns(setting, source, &contenders)?;
    let mut rows = Rows {
        rates: &rates,
        from,
        rows: vec![],
    };
    rows.add(QUERY, RUNNING, |row| row.by_ratio().floor(floor).goal(goal));
    rows.add(QUERY, OWN_DSTREAM, Row::by_share);
    Ok(rows.rows)
}
