//! Workspaces around a new crate's folder. Whether theirs is found by cargo or not, one whose `members` take the folder in breaks on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A workspace that takes a folder in.
pub(super) struct Taken {
    /// Its manifest.
    pub manifest: PathBuf,
    /// The member that does.
    pub pattern: String,
    /// The folder as its `exclude` would name it.
    pub relative: String,
}

/// The nearest workspace above `parent/name` of which that folder would be a member.
pub(super) fn around(parent: &Path, name: &str) -> Option<Taken> {
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let folder = fs::canonicalize(parent).ok()?.join(name);
    folder.ancestors().skip(1).find_map(|root| {
        let relative = folder.strip_prefix(root).ok()?.to_str()?;
        let manifest = root.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).ok()?;
        let table: toml::Table = text.parse().ok()?;
        let workspace = table.get("workspace")?.as_table()?;
        let paths = |key: &str| {
            let listed = workspace.get(key).and_then(toml::Value::as_array);
            let texts = listed.into_iter().flatten().filter_map(toml::Value::as_str);
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let is_excluded = |path: &String| parts(relative).starts_with(&parts(path));
        if paths("exclude").iter().any(is_excluded) {
            return None;
        }
        let mut members = paths("members").into_iter();
        let pattern = members.find(|pattern| takes(pattern, relative))?;
        Some(Taken {
            manifest,
            pattern,
            relative: relative.to_owned(),
        })
    })
}

/// Whether a member such as `crates/*` takes a path in.
fn takes(pattern: &str, path: &str) -> bool {
    let patterns: Vec<&str> = parts(pattern);
    let parts: Vec<&str> = parts(path);
    all_match(&patterns, &parts)
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

fn all_match(patterns: &[&str], parts: &[&str]) -> bool {
    match (patterns, parts) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            (0..=parts.len()).any(|skipped| all_match(rest, &parts[skipped..]))
        }
        ([pattern, patterns @ ..], [part, parts @ ..]) => {
            let (pattern, part): (Vec<char>, Vec<char>) =
                (pattern.chars().collect(), part.chars().collect());
            part_matches(&pattern, &part) && all_match(patterns, parts)
        }
        _ => false,
    }
}

/// `*` and `?`. What stands in brackets is taken for anything: to ask too much is better than to miss.
fn part_matches(pattern: &[char], part: &[char]) -> bool {
    match (pattern, part) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            (0..=part.len()).any(|skipped| part_matches(rest, &part[skipped..]))
        }
        (['[', ..], _) => true,
        (['?', pattern @ ..], [_, part @ ..]) => part_matches(pattern, part),
        ([wanted, pattern @ ..], [char, part @ ..]) => {
            wanted == char && part_matches(pattern, part)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_matched_as_cargo_does() {
        for (pattern, path) in [
            ("crates/*", "crates/orders"),
            ("./crates/orders/", "crates/orders"),
            ("*", "orders"),
            ("crates/o?d*", "crates/orders"),
            ("**/orders", "a/b/orders"),
            ("crates/[a-z]*", "crates/orders"),
        ] {
            assert!(takes(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("crates/*", "orders"),
            ("crates/*", "crates/a/orders"),
            ("crates", "crates/orders"),
            ("crates/x*", "crates/orders"),
            ("orders", "order"),
        ] {
            assert!(!takes(pattern, path), "{pattern} {path}");
        }
    }
}
