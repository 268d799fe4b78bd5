//! The reference pages that are made from the registries are those that lie in `docs/`.

use std::path::Path;

use millstream_common::{config, telemetry::metrics};

const RENEW: &str = "UPDATE_DOCS=1 cargo test -p millstream-common --test docs";

/// Compares a page with its file, or writes the file when asked to.
fn check(file: &str, page: &str) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = folder.join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, page));
        return written.map_err(|error| format!("docs/{file} cannot be written: {error}"));
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if found == page {
        return Ok(());
    }
    let difference = page
        .lines()
        .find(|line| !found.lines().any(|other| other == *line))
        .unwrap_or("a line that should be gone");
    Err(format!(
        "docs/{file} is stale, first at: {difference}\nrenew it: {RENEW}"
    ))
}

#[test]
fn the_configuration_reference_is_fresh() {
    let checked = check("configuration.md", &config::reference_markdown());
    checked.unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn the_metrics_reference_is_fresh() {
    let checked = check("metrics.md", &metrics::reference_markdown());
    checked.unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn each_key_and_metric_has_a_row() {
    let page = config::reference_markdown();
    for spec in config::Spec::all() {
        assert!(
            page.contains(&format!("\n| `{}` | ", spec.name())),
            "{}",
            spec.name()
        );
    }
    let page = metrics::reference_markdown();
    for spec in metrics::specs() {
        assert!(
            page.contains(&format!("\n| `{}` | ", spec.name)),
            "{}",
            spec.name
        );
    }
}
