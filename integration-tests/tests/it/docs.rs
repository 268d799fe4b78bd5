//! The pages name commands, flags, examples, keys and files that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::MetadataCommand;
use millstream_common::config::Spec;

use crate::own_job::tool;

/// Where flags are read from that no help can be asked for without building the examples.
const EXAMPLES: [(&str, &str); 2] = [
    ("wordcount", "examples/wordcount/main.rs"),
    ("producer", "examples/producer.rs"),
];

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_path_buf()
}

/// Every page that people read, with its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let top = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ];
    let mut paths: Vec<PathBuf> = top.iter().map(PathBuf::from).collect();
    for folder in ["docs", "docs/design", "docs/structured"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = Path::new(folder).join(name);
            if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    assert!(paths.len() > 12, "pages were not found: {paths:?}");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The lines of the `sh` blocks of a page.
fn shell_lines(page: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside && !command.is_empty() => lines.push(command),
            _ => {}
        }
    }
    lines
}

/// The long flags that a command line uses, without their values.
fn flags(command: &str) -> Vec<&str> {
    let words = command.split_whitespace();
    let long = words.filter_map(|word| word.strip_prefix("--"));
    long.filter(|flag| !flag.is_empty())
        .map(|flag| flag.split('=').next().unwrap())
        .collect()
}

/// The flags that `--help` of a program lists.
fn help_flags(program: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let words = help.split_whitespace();
    let long = words.filter_map(|word| word.trim_end_matches(',').strip_prefix("--"));
    long.map(str::to_owned).collect()
}

/// The flags that an example declares by itself: its fields with `#[arg(long ..)]`.
fn declared_flags(source: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(source)).unwrap();
    let mut found = BTreeSet::new();
    let mut long = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[arg(long") {
            long = true;
        } else if long && let Some((field, _)) = line.split_once(':') {
            found.insert(field.replace('_', "-"));
            long = false;
        }
    }
    assert!(
        found.len() > 3,
        "the flags of {source} were not read: {found:?}"
    );
    found
}

#[test]
fn commands_of_the_pages_use_examples_and_flags_that_exist() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let targets = metadata
        .packages
        .iter()
        .flat_map(|package| &package.targets);
    let examples: BTreeSet<&str> = targets
        .filter(|target| target.is_example())
        .map(|target| target.name.as_str())
        .collect();
    let testjob = Path::new(env!("CARGO_BIN_EXE_testjob"));
    let mut driver = help_flags(testjob, &["--help"]);
    // What is left is every application's.
    for own in declared_flags("integration-tests/src/bin/testjob.rs") {
        driver.remove(&own);
    }
    let executor = help_flags(testjob, &["executor", "--help"]);
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        for line in shell_lines(&text) {
            if let Some((_, rest)) = line.split_once("--example ") {
                let example = rest.split_whitespace().next().unwrap();
                if !examples.contains(example) {
                    wrong.push(format!("{}: no example {example}: {line}", path.display()));
                }
            }
            for (example, source) in EXAMPLES {
                let own = [
                    format!("target/release/examples/{example} "),
                    format!("--example {example} -- "),
                ];
                let Some((_, arguments)) = own.iter().find_map(|own| line.split_once(own)) else {
                    continue;
                };
                let known: BTreeSet<String> = match example {
                    "wordcount" if arguments.starts_with("executor ") => executor.clone(),
                    "wordcount" => declared_flags(source).union(&driver).cloned().collect(),
                    _ => declared_flags(source),
                };
                for flag in flags(arguments) {
                    checked += 1;
                    if !known.contains(flag) {
                        wrong.push(format!("{}: no flag --{flag}: {line}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 20, "only {checked} flags were found in the pages");
}

#[test]
fn commands_of_the_millstream_program_use_subcommands_and_flags_that_exist() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        for line in shell_lines(&text) {
            let Some(arguments) = line.strip_prefix("millstream ") else {
                continue;
            };
            checked += 1;
            let words = arguments.split_whitespace();
            let subcommand: Vec<&str> = words.take_while(|word| !word.starts_with('-')).collect();
            let help: Vec<&str> = subcommand
                .iter()
                .copied()
                .take(1)
                .chain(["--help"])
                .collect();
            let known = help_flags(tool(), &help);
            for flag in flags(arguments) {
                if !known.contains(flag) {
                    wrong.push(format!("{}: no flag --{flag}: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        checked > 3,
        "only {checked} commands were found in the pages"
    );
}

#[test]
fn configuration_keys_in_commands_and_code_exist() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        for (_, rest) in text
            .match_indices("--conf ")
            .map(|(at, found)| text.split_at(at + found.len()))
        {
            let Some((key, _)) = rest.split_once('=') else {
                continue;
            };
            if key.contains(char::is_whitespace) || key == "key" || key == "group.key" {
                continue;
            }
            checked += 1;
            if Spec::find(key).is_none() {
                wrong.push(format!("{}: no key {key}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 3, "only {checked} keys were found in the pages");
}

#[test]
fn the_readme_names_the_test_command_that_ci_runs() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let command = "integration-tests/run.sh";
    assert!(
        shell_lines(&readme).contains(&command),
        "{command} is not in the README"
    );
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(
        ci.lines()
            .any(|line| line.starts_with("test_phase ") && line.contains(command)),
        "CI does not run {command}"
    );
}

#[test]
fn links_and_named_source_files_exist() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        let folder = root().join(&path);
        let folder = folder.parent().unwrap();
        for (at, found) in text.match_indices("](") {
            let rest = &text[at + found.len()..];
            let Some((target, _)) = rest.split_once(')') else {
                continue;
            };
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if file.starts_with("http") {
                continue;
            }
            checked += 1;
            let file = if file.is_empty() {
                root().join(&path)
            } else {
                folder.join(file)
            };
            if !file.exists() {
                wrong.push(format!("{}: no file {target}", path.display()));
            } else if !anchor.is_empty() && !anchors(&file).contains(anchor) {
                wrong.push(format!("{}: no heading {target}", path.display()));
            }
        }
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_source = quoted.ends_with(".rs") && quoted.matches('/').count() > 1;
            if is_source && !quoted.contains('{') {
                checked += 1;
                if !root().join(quoted).exists() {
                    wrong.push(format!("{}: no file {quoted}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 40, "only {checked} links were found in the pages");
}

/// The anchors of a page's headings, as code hosts make them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
        kept.map(|char| if char == ' ' { '-' } else { char })
            .collect()
    };
    headings.map(anchor).collect()
}
