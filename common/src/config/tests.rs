use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use super::*;

fn variable(name: &str, value: &str) -> (OsString, OsString) {
    (name.into(), value.into())
}

fn refusal(builder: Builder) -> String {
    builder.build().expect_err("accepted").to_string()
}

#[test]
fn every_key_is_named_alike_everywhere() {
    let constants = include_str!("registry.rs");
    let mut seen = HashSet::new();
    for (index, spec) in Spec::all().iter().enumerate() {
        let constant = spec.name().replace('.', "_").to_ascii_uppercase();
        let declared = format!("\"{}\" {constant}: ", spec.name());
        assert!(
            constants.contains(&declared),
            "{} is not {constant}",
            spec.name()
        );
        assert!(seen.insert(spec.name()), "{} stands twice", spec.name());
        assert_eq!(spec.index(), index);
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        assert!(spec.name().chars().all(lower) && !spec.name().contains("__"));
        assert!(
            spec.doc().ends_with(['.', ')']),
            "{}: {}",
            spec.name(),
            spec.doc()
        );
    }
}

#[test]
fn every_default_is_accepted() {
    let defaults = Values::default();
    for spec in Spec::all() {
        let text = spec.text(&defaults);
        let mut values = Values::default();
        spec.assign(&mut values, &text)
            .unwrap_or_else(|expected| panic!("{} = {text}: {expected}", spec.name()));
        assert_eq!(spec.text(&values), text, "{}", spec.name());
    }
    Config::builder()
        .build()
        .expect("the defaults fit together");
}

#[test]
fn every_key_is_set_by_its_variable_alone() {
    let defaults = Config::default();
    for spec in Spec::all() {
        let text = match spec.is_secret() {
            true => "hunter2".to_owned(),
            false => spec.text(&defaults.inner.values),
        };
        let config = Config::builder()
            .variables([(spec.variable().into(), text.into())])
            .build()
            .expect("accepted");
        let set: Vec<_> = config
            .effective()
            .into_iter()
            .filter(|entry| entry.origin != Origin::Default)
            .map(|entry| entry.key)
            .collect();
        assert_eq!(set, [spec.name()]);
    }
}

#[test]
fn a_later_source_wins_whatever_the_order_of_calls() {
    let file = "[task]\nmax_failures = 5\nexclude_after = 5\n[stage]\nmax_attempts = 5\n[batch]\nmax_queued = 5\n";
    let config = Config::builder()
        .conf("batch.max_queued", 8)
        .flags(["batch.max_queued=7", "stage.max_attempts = 7"])
        .variables([
            variable("MILLSTREAM_BATCH__MAX_QUEUED", "6"),
            variable("MILLSTREAM_STAGE__MAX_ATTEMPTS", "6"),
            variable("MILLSTREAM_TASK__EXCLUDE_AFTER", "6"),
        ])
        .toml("m.toml", file)
        .build()
        .expect("accepted");
    assert_eq!(config.get(keys::TASK_MAX_FAILURES), 5);
    assert_eq!(config.get(keys::TASK_EXCLUDE_AFTER), 6);
    assert_eq!(config.get(keys::STAGE_MAX_ATTEMPTS), 7);
    assert_eq!(config.get(keys::BATCH_MAX_QUEUED), 8);
    assert_eq!(config.get(keys::SPECULATION_MULTIPLIER), 3.0);
    assert_eq!(
        config.origin(keys::TASK_MAX_FAILURES).to_string(),
        "m.toml, line 2"
    );
    assert_eq!(
        config.origin(keys::TASK_EXCLUDE_AFTER).to_string(),
        "variable MILLSTREAM_TASK__EXCLUDE_AFTER"
    );
    assert_eq!(
        config.origin(keys::STAGE_MAX_ATTEMPTS).to_string(),
        "--conf"
    );
    assert_eq!(config.origin(keys::BATCH_MAX_QUEUED), &Origin::Code);
    assert!(!config.is_set(keys::SPECULATION_MULTIPLIER));
}

#[test]
fn the_last_flag_of_a_key_wins() {
    let config = Config::builder()
        .flags(["task.max_failures=1", "task.max_failures=2"])
        .build()
        .expect("accepted");
    assert_eq!(config.get(keys::TASK_MAX_FAILURES), 2);
}

#[test]
fn toml_takes_tables_dotted_and_quoted_keys() {
    let text = "parallelism = 0x10\ntask.max_failures = 9\n\"stop.timeout\" = \"1m\"\n[speculation]\nenabled = true\nquantile = 0.5\n";
    let config = Config::builder()
        .toml("m.toml", text)
        .build()
        .expect("accepted");
    assert_eq!(config.get(keys::PARALLELISM), Some(16));
    assert_eq!(config.get(keys::TASK_MAX_FAILURES), 9);
    assert_eq!(config.get(keys::STOP_TIMEOUT), Duration::from_secs(60));
    assert!(config.get(keys::SPECULATION_ENABLED));
    assert_eq!(config.get(keys::SPECULATION_QUANTILE), 0.5);
}

#[test]
fn a_file_is_read_from_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("millstream.toml");
    std::fs::write(&path, "kafka.read_ahead = \"1MiB\"").expect("written");
    let config = Config::builder().file(&path).build().expect("accepted");
    assert_eq!(config.get(keys::KAFKA_READ_AHEAD), ByteSize::mib(1));

    let absent = folder.path().join("absent.toml");
    let message = refusal(Config::builder().file(&absent));
    assert!(
        message.starts_with("cannot read the configuration file "),
        "{message}"
    );
    assert!(message.contains("absent.toml"), "{message}");
}

#[test]
fn a_bad_value_names_its_place_and_what_is_accepted() {
    assert_eq!(
        refusal(Config::builder().toml("m.toml", "\n[task]\nmax_failures = 0\n")),
        "bad value `0` for `task.max_failures` (from m.toml, line 3): expected an integer, 1 to 1000"
    );
    assert_eq!(
        refusal(Config::builder().variables([variable("MILLSTREAM_STOP__TIMEOUT", "10")])),
        "bad value `10` for `stop.timeout` (from variable MILLSTREAM_STOP__TIMEOUT): expected a duration such as `10s`, `500ms` or `2m`, 0s to 1d"
    );
    assert_eq!(
        refusal(Config::builder().flags(["input.on_malformed=ignore"])),
        "bad value `ignore` for `input.on_malformed` (from --conf): expected one of `fail`, `drop`, `replace`"
    );
    assert_eq!(
        refusal(Config::builder().conf("driver.listen", "7077")),
        "bad value `7077` for `driver.listen` (from code): expected a host and port such as `127.0.0.1:7077`"
    );
    assert_eq!(
        refusal(Config::builder().toml("m.toml", "parallelism = [1, 2]")),
        "bad value `[1, 2]` for `parallelism` (from m.toml, line 1): expected an integer, 1 to 4096"
    );
}

#[test]
fn durations_are_whole_milliseconds() {
    for text in ["100us", "1500us", "1ns"] {
        let message = refusal(Config::builder().conf("batch.interval", text));
        assert!(message.contains("expected a duration"), "{message}");
    }
    let cut = Config::builder().set(keys::BATCH_INTERVAL, Duration::from_micros(1_500));
    assert!(refusal(cut).contains("`1500us`"));
    let given = Config::builder().conf("batch.interval", "1ms").build();
    let interval = given.unwrap().get(keys::BATCH_INTERVAL);
    assert_eq!(interval, Duration::from_millis(1));
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest() {
    assert_eq!(
        refusal(Config::builder().toml("m.toml", "[task]\nmax_failurs = 4")),
        "unknown configuration key `task.max_failurs` (from m.toml, line 2); did you mean `task.max_failures`?"
    );
    assert_eq!(
        refusal(Config::builder().variables([variable("MILLSTREAM_TASK__MAX_FAILURE", "4")])),
        "unknown configuration key `MILLSTREAM_TASK__MAX_FAILURE` (from variable MILLSTREAM_TASK__MAX_FAILURE); did you mean `MILLSTREAM_TASK__MAX_FAILURES`?"
    );
    assert_eq!(
        refusal(Config::builder().flags(["spark.task.maxFailures=4"])),
        "unknown configuration key `spark.task.maxFailures` (from --conf); did you mean `task.max_failures`?"
    );
    assert_eq!(
        refusal(Config::builder().flags(["spark.streaming.kafka.maxRatePerPartition=4"])),
        "unknown configuration key `spark.streaming.kafka.maxRatePerPartition` (from --conf); did you mean `kafka.max_rate_per_partition`?"
    );
    assert_eq!(
        refusal(Config::builder().conf("driver.max_failures", 4)),
        "unknown configuration key `driver.max_failures` (from code); did you mean `task.max_failures`?"
    );
    assert_eq!(
        refusal(Config::builder().conf("xyzzy", 4)),
        "unknown configuration key `xyzzy` (from code)"
    );
}

#[test]
fn malformed_sources_are_refused() {
    assert_eq!(
        refusal(Config::builder().flags(["task.max_failures"])),
        "`--conf task.max_failures` has no value: write it as `--conf key=value`"
    );
    let message = refusal(Config::builder().toml("m.toml", "[task]\nmax_failures = \n"));
    assert!(
        message.starts_with("the configuration file m.toml, line 2 is not valid TOML: "),
        "{message}"
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    let message = refusal(
        Config::builder()
            .flags(["task.max_failures=x", "nonsense"])
            .conf("stop.timeout", "soon"),
    );
    assert_eq!(message.lines().count(), 3, "{message}");
}

#[test]
fn only_variables_meant_for_the_configuration_are_taken() {
    let config = Config::builder()
        .variables([
            variable("MILLSTREAM_LOG", "debug"),
            variable("MILLSTREAM_DRIVER_PORT", "tcp://10.0.0.1:7077"),
            variable("MILLSTREAM_DRIVER_SERVICE_HOST", "10.0.0.1"),
            variable("OTHER__TASK", "1"),
            variable("MILLSTREAM_PARALLELISM", "3"),
        ])
        .build()
        .expect("accepted");
    assert_eq!(config.get(keys::PARALLELISM), Some(3));
    assert_eq!(
        refusal(Config::builder().variables([variable("MILLSTREAM_TASK_MAX_FAILURES", "3")])),
        "unknown configuration key `MILLSTREAM_TASK_MAX_FAILURES` (from variable MILLSTREAM_TASK_MAX_FAILURES); did you mean `MILLSTREAM_TASK__MAX_FAILURES`?"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'/', 0xff]);
    let builder = Config::builder().variables([("MILLSTREAM_SHUFFLE__SPILL_DIR".into(), value)]);
    assert!(refusal(builder).ends_with("expected UTF-8"));
}

#[test]
fn a_secret_is_never_shown() {
    let config = Config::builder()
        .variables([variable("MILLSTREAM_AUTH__SECRET", "hunter2")])
        .build()
        .expect("accepted");
    assert_eq!(
        config.get(keys::AUTH_SECRET).expect("set").expose(),
        "hunter2"
    );
    let json = serde_json::to_string(&config).expect("serialised");
    let shown = format!(
        "{config:?} {:?} {:?}",
        config.effective(),
        config.to_builder()
    );
    assert!(
        !json.contains("hunter2") && !json.contains("auth.secret"),
        "{json}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains(REDACTED), "{shown}");
    assert!(!config.affecting_results().contains_key("auth.secret"));

    let broken = Config::builder()
        .conf("auth.secrets", "hunter2")
        .variables([variable("MILLSTREAM_AUTH_SECRET", "hunter2")])
        .toml("m.toml", "task.max_failures = \"x\"");
    assert!(!format!("{broken:?}").contains("hunter2"));
    let message = refusal(broken);
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn an_optional_value_can_be_taken_back() {
    let config = Config::builder()
        .toml("m.toml", "checkpoint.location = \"/data\"")
        .flags(["checkpoint.location="])
        .build()
        .expect("accepted");
    assert_eq!(config.get(keys::CHECKPOINT_LOCATION), None);
}

#[test]
fn values_must_fit_together() {
    assert_eq!(
        refusal(Config::builder().flags(["executor.heartbeat_interval=6s"])),
        "`executor.heartbeat_interval` = 6s (from --conf) does not fit: `executor.timeout` (10s) must be at least twice `executor.heartbeat_interval` (6s), or one late heartbeat is a lost executor"
    );
}

#[test]
fn a_configuration_crosses_processes() {
    let config = Config::builder()
        .set(keys::BATCH_INTERVAL, Duration::from_millis(250))
        .flag("--checkpoint", keys::CHECKPOINT_LOCATION, "/data/ck")
        .toml("m.toml", "shuffle.compression = \"none\"")
        .build()
        .expect("accepted");
    let json = serde_json::to_string(&config).expect("serialised");
    let other: Config = serde_json::from_str(&json).expect("read");
    assert_eq!(other.effective(), config.effective());
    assert_eq!(
        other.origin(keys::CHECKPOINT_LOCATION).to_string(),
        "--checkpoint"
    );

    let unknown = json.replace("batch.interval", "batch.intervall");
    let message = serde_json::from_str::<Config>(&unknown)
        .expect_err("accepted")
        .to_string();
    assert!(
        message.contains("did you mean `batch.interval`?"),
        "{message}"
    );
}

#[test]
fn an_executor_keeps_its_own_process_settings() {
    let driver = Config::builder()
        .conf("memory.budget", "1GiB")
        .conf("shuffle.spill_dir", "/driver")
        .conf("task.max_failures", 9)
        .conf("auth.secret", "of the driver")
        .build()
        .expect("accepted");
    let local = Config::builder()
        .conf("shuffle.spill_dir", "/local")
        .conf("task.max_failures", 2)
        .build()
        .expect("accepted");
    let merged = driver.for_executor(&local);
    assert_eq!(merged.get(keys::MEMORY_BUDGET), ByteSize::gib(1));
    assert_eq!(
        merged.get(keys::SHUFFLE_SPILL_DIR).as_deref(),
        Some("/local")
    );
    assert_eq!(merged.get(keys::TASK_MAX_FAILURES), 9);
    assert!(merged.get(keys::AUTH_SECRET).is_none());
}

#[test]
fn what_shapes_results_is_recorded_and_read_back() {
    let before = Config::builder()
        .conf("memory.spill_threshold", "3MiB")
        .conf("input.on_malformed", "drop")
        .build()
        .expect("accepted");
    let mut recorded = before.affecting_results();
    assert_eq!(logged_spill_threshold(&recorded), Some(ByteSize::mib(3)));
    let names: Vec<&String> = recorded.keys().collect();
    assert_eq!(
        names,
        ["memory.spill_threshold"],
        "the new value of a policy counts"
    );
    recorded.insert("memory.spill_threshold".to_owned(), "much".to_owned());
    assert_eq!(logged_spill_threshold(&recorded), None);
    assert_eq!(logged_spill_threshold(&BTreeMap::new()), None);
}

#[test]
fn the_files_of_tls_come_together() {
    let error = Config::builder()
        .conf("tls.ca", "ca.pem")
        .conf("tls.key", "node.key")
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tls.ca") && error.contains("without `tls.cert`"),
        "{error}"
    );
    let all = Config::builder()
        .conf("tls.ca", "ca.pem")
        .conf("tls.cert", "node.pem")
        .conf("tls.key", "node.key")
        .build();
    assert!(all.is_ok());
}

#[test]
fn a_spill_threshold_that_nobody_set_follows_a_small_budget() {
    let of = |budget: &str| Config::builder().conf("memory.budget", budget);
    let threshold = |builder: Builder| {
        let config = builder.build().expect("accepted");
        config.get(keys::MEMORY_SPILL_THRESHOLD).to_string()
    };
    assert_eq!(threshold(Config::builder()), "64MiB");
    assert_eq!(threshold(of("128MiB")), "16MiB");
    assert_eq!(threshold(of("64GiB")), "64MiB");
    let set = of("128MiB").conf("memory.spill_threshold", "100MiB");
    assert_eq!(threshold(set), "100MiB");
    let small = of("128MiB").build().expect("accepted");
    assert!(!small.is_set(keys::MEMORY_SPILL_THRESHOLD));
    assert_eq!(small.affecting_results()["memory.spill_threshold"], "16MiB");
    let raised = small.to_builder().conf("memory.budget", "1GiB");
    assert_eq!(threshold(raised), "64MiB");
}
