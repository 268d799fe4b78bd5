//! Logging is set up once a process; a test binary of its own, since it is set up for good.

use millstream_common::config::LogFormat;
use millstream_common::telemetry::logging;

#[test]
fn logging_is_set_up_once() {
    logging::init(LogFormat::Json).expect("the first time");
    assert!(tracing::enabled!(tracing::Level::ERROR));
    let again = logging::init(LogFormat::Text).expect_err("the second time");
    assert!(
        again
            .to_string()
            .starts_with("logging is already set up in this process: "),
        "{again}"
    );
}
