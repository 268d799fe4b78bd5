//! Renders the configuration reference.

use std::fmt::Write;

use super::declare::Spec;
use super::registry::{SECTIONS, Values};

const INTRODUCTION: &str = "\
<!-- Made from the registry in common/src/config/registry.rs. Renew: UPDATE_DOCS=1 cargo test -p millstream-common --test docs -->

# Configuration

Each key can be set in four places. A later one wins:

1. a TOML file named by `--config`: `[task]` and below it `max_failures = 8`, or `task.max_failures = 8`;
2. an environment variable, with a doubled underscore for the dot: `MILLSTREAM_TASK__MAX_FAILURES=8`;
3. the command line: `--conf task.max_failures=8`;
4. the application's code: `builder.conf(\"task.max_failures\", 8)`.

An unknown key or a bad value is refused at the start, with the place it came from, the nearest key, or the values that are taken.

Durations are an integer and one of `ms`, `s`, `m`, `h`, `d`. Sizes are an integer and one of `B`,
`KiB`, `MiB`, `GiB`, `TiB`. An optional key set to nothing (`--conf time.zone=`) has no value.

* *Affects results*: the value is recorded when a batch starts and used again if that batch has to run again. What to do with bad or lost input is
  no such key: the value at the start that runs the batch again counts, so that a change of it is a way out.
* *Per process*: an executor's own value wins over the driver's. All other keys are set at the driver.
* *Secret*: never shown, logged, stored or sent; set it on every process.
";

/// The configuration reference as a Markdown page.
pub fn reference_markdown() -> String {
    let defaults = Values::default();
    let mut page = INTRODUCTION.to_owned();
    for section in SECTIONS {
        let _ = write!(
            page,
            "\n## {}\n\n| Key | Default | Accepts | What it does |\n| --- | --- | --- | --- |\n",
            section.title
        );
        for name in section.names {
            if let Some(spec) = Spec::find(name) {
                page.push_str(&row(spec, &defaults));
            }
        }
    }
    page
}

fn row(spec: &Spec, defaults: &Values) -> String {
    let default = spec.text(defaults);
    let default = match default.as_str() {
        "" => "none".to_owned(),
        text => format!("`{text}`"),
    };
    let mut doc = spec.doc().split_whitespace().collect::<Vec<_>>().join(" ");
    if spec.affects_results() {
        doc.push_str(" *Affects results.*");
    }
    if spec.scope() == super::Scope::Process {
        doc.push_str(" *Per process.*");
    }
    if spec.is_secret() {
        doc.push_str(" *Secret.*");
    }
    let doc = doc.replace('|', "\\|");
    format!(
        "| `{}` | {default} | {} | {doc} |\n",
        spec.name(),
        spec.accepts()
    )
}
