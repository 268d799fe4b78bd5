//! `COVERAGE.md` names tests that exist, and for each what turned it red.

use std::{collections::BTreeSet, fs, path::Path};

use walkdir::WalkDir;

/// `module::name` of every test in the sources: files and folders are modules; modules within a file count by their names.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in WalkDir::new(folder).into_iter().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let relative = path.strip_prefix(folder).unwrap().with_extension("");
        let mut module: Vec<String> = relative
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        module.retain(|part| !["mod", "lib", "main"].contains(&part.as_str()));
        let source = fs::read_to_string(path).unwrap();
        let mut inner: Option<String> = None;
        let mut is_test = false;
        for line in source.lines() {
            let code = line.trim_start();
            if let Some(rest) = line
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(" {"))
            {
                inner = Some(rest.to_owned());
            }
            if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
                is_test = true;
                continue;
            }
            let function = code
                .strip_prefix("async ")
                .unwrap_or(code)
                .strip_prefix("fn ");
            if let (true, Some(function)) = (is_test, function) {
                let name = function.split(['(', '<']).next().unwrap();
                let path = module
                    .iter()
                    .map(String::as_str)
                    .chain(inner.as_deref())
                    .chain([name]);
                found.insert(path.collect::<Vec<_>>().join("::"));
                is_test = false;
            }
        }
    }
}

#[test]
fn each_test_named_in_the_coverage_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = root.parent().unwrap();
    // Those of this binary go by their path, those of other crates by `crate::path`.
    let mut tests = BTreeSet::new();
    tests_below(&root.join("tests/it"), &mut tests);
    for entry in fs::read_dir(workspace).unwrap().flatten() {
        for sources in ["src", "tests"] {
            let folder = entry.path().join(sources);
            if !entry.path().join("Cargo.toml").exists() || !folder.exists() {
                continue;
            }
            let mut own = BTreeSet::new();
            tests_below(&folder, &mut own);
            let package = entry.file_name().to_string_lossy().into_owned();
            tests.extend(own.into_iter().map(|test| format!("{package}::{test}")));
        }
    }
    let table = fs::read_to_string(root.join("COVERAGE.md")).unwrap();
    let mut rows = 0;
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.get(1) == Some(&"test") || cells[0].starts_with("--") {
            continue;
        }
        let [item, named, change] = cells.as_slice() else {
            panic!("a row of COVERAGE.md has {} cells: {line}", cells.len());
        };
        assert!(
            !item.is_empty() && !change.is_empty(),
            "an empty cell: {line}"
        );
        rows += 1;
        for test in named.split(',').map(|test| test.trim().trim_matches('`')) {
            assert!(
                tests.contains(test),
                "COVERAGE.md names {test}, which is no test"
            );
        }
    }
    assert!(rows > 100, "the tables have {rows} rows");
}
