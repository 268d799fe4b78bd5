//! Which names a new crate can have.

/// The longest name that the package registry takes.
const LONGEST: usize = 64;

/// Words of the language, some of them reserved for later.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Crates of the compiler.
const STANDARD: &[&str] = &["alloc", "core", "proc_macro", "std"];

/// Names that a crate of this kind depends on, by way of Millstream too.
const DEPENDENCIES: &[&str] = &[
    "clap",
    "millstream",
    "millstream_common",
    "millstream_connectors",
    "millstream_dataflow",
    "millstream_driver",
    "millstream_dstreams",
    "millstream_executor",
    "millstream_proto",
    "serde",
    "tempfile",
];

/// Folders that cargo makes beside an executable of that name.
const OF_CARGO: &[&str] = &["build", "deps", "examples", "incremental"];

/// Names that files can't have on some systems.
const OF_WINDOWS: &[&str] = &["aux", "con", "nul", "prn"];

/// Why a name can't be taken; completes "... can't be the crate's name: ".
pub(super) fn objection(name: &str) -> Option<String> {
    let Some(first) = name.chars().next() else {
        return Some("it is empty".to_owned());
    };
    if let Some(bad) = name.chars().find(|char| !is_allowed(*char)) {
        return Some(format!(
            "{bad:?} can't stand in it; use small letters, digits, `-` and `_`"
        ));
    }
    if !first.is_ascii_lowercase() {
        return Some("it doesn't begin with a letter".to_owned());
    }
    if name.len() > LONGEST {
        return Some(format!(
            "it has {} characters; {LONGEST} are the most",
            name.len()
        ));
    }
    let module = name.replace('-', "_");
    let module = module.as_str();
    if KEYWORDS.contains(&module) {
        return Some("it is a keyword of Rust".to_owned());
    }
    if module == "test" {
        return Some("`test` is the name of the compiler's test crate".to_owned());
    }
    if STANDARD.contains(&module) {
        return Some("it is a crate of the standard library".to_owned());
    }
    if DEPENDENCIES.contains(&module) {
        return Some("the crate depends on another of that name".to_owned());
    }
    if OF_CARGO.contains(&module) {
        return Some("cargo has a folder of that name beside the executable".to_owned());
    }
    if OF_WINDOWS.contains(&module) {
        return Some("no file can have that name on Windows".to_owned());
    }
    None
}

fn is_allowed(char: char) -> bool {
    char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_')
}

/// A name that can be taken, as near to `name` as can be, for which `is_free` says yes.
pub(super) fn suggestion(name: &str, is_free: impl Fn(&str) -> bool) -> String {
    let mut near = cleaned(name);
    if objection(&near).is_some() {
        near.truncate(LONGEST - "-job".len());
        near.push_str("-job");
    }
    if is_free(&near) {
        return near;
    }
    let mut number = 2u64;
    loop {
        let suffix = format!("-{number}");
        let mut numbered = near.clone();
        numbered.truncate(LONGEST - suffix.len());
        numbered.push_str(&suffix);
        if is_free(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

/// Allowed characters alone, beginning with a letter, not too long; words of `CamelCase` apart.
fn cleaned(name: &str) -> String {
    let last = name
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(name);
    let mut clean = String::new();
    let mut after_small = false;
    for char in last.chars() {
        let small = char.to_ascii_lowercase();
        if char.is_ascii_uppercase() && after_small {
            clean.push('-');
        }
        after_small = char.is_ascii_lowercase() || char.is_ascii_digit();
        if is_allowed(small) {
            clean.push(small);
        } else if !clean.ends_with('-') {
            clean.push('-');
        }
    }
    let trimmed = clean.trim_matches(['-', '_']);
    let mut clean = match trimmed.chars().next() {
        None => "my-job".to_owned(),
        Some(first) if first.is_ascii_lowercase() => trimmed.to_owned(),
        Some(_) => format!("job-{trimmed}"),
    };
    clean.truncate(LONGEST);
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn suggested(name: &str) -> String {
        suggestion(name, |_| true)
    }

    #[test]
    fn good_names_are_taken() {
        for name in ["a", "orders", "word-count", "word_count", "job2", "tests"] {
            assert_eq!(objection(name), None, "{name}");
        }
    }

    #[test]
    fn each_bad_name_has_its_reason_and_a_near_name() {
        for (bad, reason, near) in [
            ("", "empty", "my-job"),
            ("WordCount", "'W'", "word-count"),
            ("word count", "' '", "word-count"),
            ("größe", "'ö'", "gr-e"),
            ("../orders", "'.'", "orders"),
            ("2fast", "begin with a letter", "job-2fast"),
            ("-x", "begin with a letter", "x"),
            ("match", "keyword", "match-job"),
            ("test", "test crate", "test-job"),
            ("std", "standard library", "std-job"),
            ("proc-macro", "standard library", "proc-macro-job"),
            ("serde", "depends on another", "serde-job"),
            ("millstream", "depends on another", "millstream-job"),
            (
                "millstream-driver",
                "depends on another",
                "millstream-driver-job",
            ),
            ("deps", "cargo", "deps-job"),
            ("con", "Windows", "con-job"),
        ] {
            let objection = objection(bad).unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(objection.contains(reason), "{bad}: {objection}");
            assert_eq!(suggested(bad), near, "for {bad}");
        }
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        assert_eq!(suggestion("orders", |name| name != "orders"), "orders-2");
        let free = |name: &str| name != "orders" && name != "orders-2";
        assert_eq!(suggestion("orders", free), "orders-3");
        assert_eq!(suggested(&"x".repeat(80)).len(), 64);
    }

    proptest! {
        #[test]
        fn what_is_suggested_can_be_taken(name in ".{0,80}") {
            let suggested = suggested(&name);
            prop_assert_eq!(objection(&suggested), None, "{}", suggested);
        }
    }
}
