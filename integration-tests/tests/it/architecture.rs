//! Who may depend on whom, and what must stay out of whose tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use millstream_common::config::Spec;
use walkdir::{DirEntry, WalkDir};

/// What each crate of the product may depend on directly, of the workspace's own.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("millstream-common", &[]),
    ("millstream-proto", &["millstream-common"]),
    ("millstream-dataflow", &["millstream-common"]),
    (
        "millstream-connectors",
        &["millstream-common", "millstream-dataflow"],
    ),
    ("millstream-driver", RUNTIME),
    ("millstream-executor", RUNTIME),
    (
        "millstream-dstreams",
        &[
            "millstream-common",
            "millstream-proto",
            "millstream-dataflow",
            "millstream-connectors",
            "millstream-driver",
            "millstream-executor",
        ],
    ),
    (
        // Of `dstreams` the parts that know of no stream: masters, the console, Java's numbers, the link within a process.
        "millstream-sql",
        &[
            "millstream-common",
            "millstream-proto",
            "millstream-dataflow",
            "millstream-connectors",
            "millstream-driver",
            "millstream-executor",
            "millstream-dstreams",
        ],
    ),
    (
        "millstream",
        &[
            "millstream-common",
            "millstream-proto",
            "millstream-dataflow",
            "millstream-connectors",
            "millstream-driver",
            "millstream-executor",
            "millstream-dstreams",
            "millstream-sql",
        ],
    ),
];

/// The driver and the executor stand on the same ground, and never on each other.
const RUNTIME: &[&str] = &[
    "millstream-common",
    "millstream-proto",
    "millstream-dataflow",
    "millstream-connectors",
];

/// Those that stand outside of the product: nothing may depend on them, they may depend on anything.
const OUTSIDE: [&str; 7] = [
    "millstream-benchmark-programs",
    "millstream-benchmark-sql-programs",
    "millstream-benchmarks",
    "millstream-examples",
    "millstream-examples-structured",
    "millstream-integration-tests",
    "millstream-proto-generate",
];

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_path_buf()
}

/// The workspace's own manifests. Without dependencies: to resolve them, cargo would fetch crates of other
/// platforms.
fn workspace() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
}

/// The crates of the workspace that `package` needs to be built; its tests may need more.
fn own_dependencies(package: &Package, members: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dependency in &package.dependencies {
        if dependency.kind != DependencyKind::Development
            && members.contains(dependency.name.as_str())
        {
            found.insert(dependency.name.clone());
        }
    }
    found
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = workspace();
    let members: BTreeSet<&str> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut checked = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if OUTSIDE.contains(&name) {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!(
                "{name}: give this crate its place in `ALLOWED` (or `OUTSIDE`)"
            ));
            continue;
        };
        checked.insert(name);
        for dependency in own_dependencies(package, &members) {
            if !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        checked.len(),
        ALLOWED.len(),
        "`ALLOWED` names a crate that is gone; there are {checked:?}"
    );
}

/// The names of all packages that are built for `package` alone with its default features.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            // Those of examples and tests are development dependencies.
            "normal,build,dev",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn common_knows_no_transport() {
    let tree = tree("millstream-common");
    assert!(tree.contains("serde"), "the tree was not read: {tree:?}");
    let transports: Vec<&String> = tree
        .iter()
        .filter(|name| name.starts_with("tonic") || *name == "prost")
        .collect();
    assert!(transports.is_empty(), "{transports:?}");
}

#[test]
fn the_examples_compile_no_datafusion() {
    let tree = tree("millstream-examples");
    assert!(
        tree.contains("millstream"),
        "the tree was not read: {tree:?}"
    );
    let engines: Vec<&String> = tree
        .iter()
        .filter(|name| name.starts_with("datafusion"))
        .collect();
    assert!(engines.is_empty(), "{engines:?}");
}

#[test]
fn datafusion_is_in_one_crate_alone() {
    let mut users = Vec::new();
    for package in workspace().packages {
        let is_engine = |name: &str| name.starts_with("datafusion") || name.starts_with("arrow");
        let mut names = package
            .dependencies
            .iter()
            // Tests compare with what the engine alone gives.
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| &dependency.name);
        if names.any(|name| is_engine(name)) {
            users.push(package.name.to_string());
        }
        let features = package.features.get("default");
        assert!(
            features.is_none_or(Vec::is_empty),
            "{} has features of its own accord",
            package.name
        );
    }
    assert_eq!(users, ["millstream-sql"]);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for package in workspace().packages {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        let manifest: toml::Table = toml::from_str(&manifest).unwrap();
        let inherited = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        assert_eq!(
            inherited.and_then(toml::Value::as_bool),
            Some(true),
            "{} lacks `lints.workspace = true`",
            package.name
        );
    }
}

/// The lines of a Rust file, or of all below a folder.
fn lines_below(path: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(path).into_iter().flatten();
    let is_rust = |entry: &walkdir::DirEntry| entry.path().extension().is_some_and(|it| it == "rs");
    let files = entries.filter(is_rust);
    let contents = files.map(|entry| fs::read_to_string(entry.path()).unwrap());
    let lines = contents.flat_map(|content| content.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.collect()
}

/// Whether documentation has a block of Rust code.
fn has_documentation_test(lines: &[String]) -> bool {
    let mut is_open = false;
    for line in lines {
        let line = line.trim_start();
        let text = line
            .strip_prefix("//!")
            .or_else(|| line.strip_prefix("///"));
        let Some(kind) = text.and_then(|text| text.trim().strip_prefix("```")) else {
            continue;
        };
        is_open = !is_open;
        if is_open && kind != "text" {
            return true;
        }
    }
    false
}

#[test]
fn targets_without_test_binaries_have_no_tests() {
    let mut spared = 0;
    for package in workspace().workspace_packages() {
        for target in &package.targets {
            let source = target.src_path.as_std_path();
            let lines = match (target.is_lib(), target.is_bin()) {
                (true, _) => lines_below(source.parent().unwrap()),
                (_, true) => lines_below(source),
                _ => continue,
            };
            let place = format!("{} of {}", target.name, package.name);
            if !target.test {
                spared += 1;
                let is_test = |line: &String| {
                    let line = line.trim();
                    line == "#[test]" || line.starts_with("#[tokio::test") || line == "proptest! {"
                };
                assert!(!lines.iter().any(is_test), "{place}");
            }
            if target.is_lib() && !target.doctest {
                spared += 1;
                assert!(!has_documentation_test(&lines), "{place}");
            }
        }
    }
    assert!(spared > 10, "{spared}");
}

/// The code of the product, without that of its tests.
fn product_code() -> String {
    let mut code = String::new();
    for (package, _) in ALLOWED {
        let folder = match package.strip_prefix("millstream-") {
            Some(name) => root().join(name),
            None => root().join(package),
        };
        let entries = WalkDir::new(folder.join("src")).into_iter();
        let is_kept = |entry: &DirEntry| {
            let name = entry.file_name().to_string_lossy();
            !["tests", "tests.rs", "testing.rs"].contains(&&*name)
                && !entry.path().ends_with("config/registry.rs")
        };
        for entry in entries.filter_entry(is_kept).map(Result::unwrap) {
            if entry.file_type().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let end = text.find("\nmod tests {").unwrap_or(text.len());
                code.push_str(&text[..end]);
            }
        }
    }
    code
}

#[test]
fn every_configuration_key_does_something() {
    let code = product_code();
    let unused: Vec<&str> = Spec::all()
        .iter()
        .map(Spec::name)
        .filter(|name| {
            let constant = format!("keys::{}", name.replace('.', "_").to_ascii_uppercase());
            let mut uses = code.match_indices(&constant);
            !uses.any(|(at, _)| {
                let next = code[at + constant.len()..].chars().next();
                !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '_')
            })
        })
        .collect();
    assert_eq!(unused, [""; 0], "documented, and read by nothing");
}
