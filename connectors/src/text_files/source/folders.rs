//! Patterns of folders, as Hadoop's globs.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use regex::Regex;
use thiserror::Error;

use super::super::absolute;

/// Folders that one pattern may stand for.
const MAX_FOLDERS: usize = 100_000;

/// A pattern that can't be used.
#[derive(Debug, Error)]
pub enum PatternError {
    /// The location is a URL.
    #[error(
        "the folder {0} is a URL of another file system; give a path that driver and executors share"
    )]
    Scheme(String),
    /// Not a pattern.
    #[error("the folder pattern {pattern} can't be read: {problem}")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The working folder is unknown.
    #[error("the folder {pattern} can't be made an absolute path")]
    Relative {
        /// The pattern.
        pattern: String,
        /// Why.
        source: io::Error,
    },
}

/// One name of a path.
#[derive(Debug, Clone)]
enum Name {
    Literal(String),
    Wild { matches: Regex, dot: bool },
}

/// A folder, or a pattern of folders.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    names: Vec<Name>,
}

impl Folders {
    pub(super) fn parse(pattern: &str, relative_to: Option<&Path>) -> Result<Self, PatternError> {
        let path = pattern.strip_prefix("file://").unwrap_or(pattern);
        if path.contains("://") {
            return Err(PatternError::Scheme(pattern.to_owned()));
        }
        let absolute = absolute(path, relative_to).map_err(|source| PatternError::Relative {
            pattern: pattern.to_owned(),
            source,
        })?;
        let mut names = Vec::new();
        for component in absolute.components() {
            let Component::Normal(name) = component else {
                if component == Component::ParentDir {
                    names.push(Name::Literal("..".to_owned()));
                }
                continue;
            };
            let name = name.to_string_lossy();
            names.push(compile(&name).map_err(|problem| PatternError::Syntax {
                pattern: pattern.to_owned(),
                problem,
            })?);
        }
        Ok(Self { names })
    }

    /// Whether this is just one folder.
    pub(super) fn is_literal(&self) -> bool {
        self.names
            .iter()
            .all(|name| matches!(name, Name::Literal(_)))
    }

    /// The folders that there are now, sorted; the one folder of a pattern without wildcards whether it is there or not.
    pub(super) fn expand(&self) -> io::Result<Vec<PathBuf>> {
        let literal = self.is_literal();
        let mut folders = vec![PathBuf::from("/")];
        for name in &self.names {
            match name {
                Name::Literal(name) => {
                    for folder in &mut folders {
                        folder.push(name);
                    }
                }
                Name::Wild { matches, dot } => {
                    let mut inner = Vec::new();
                    for folder in &folders {
                        matching(folder, matches, *dot, &mut inner)?;
                    }
                    folders = inner;
                }
            }
        }
        if !literal {
            folders.retain(|folder| folder.is_dir());
        }
        folders.sort();
        Ok(folders)
    }
}

/// Appends the folders in `folder` whose name matches. What vanished or is no folder has none.
fn matching(folder: &Path, name: &Regex, dot: bool, out: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else {
            continue;
        };
        let hidden = text.starts_with('.') && !dot;
        if hidden || !name.is_match(text) || !entry.path().is_dir() {
            continue;
        }
        if out.len() == MAX_FOLDERS {
            return Err(io::Error::other(format!(
                "the pattern stands for more than {MAX_FOLDERS} folders; narrow it"
            )));
        }
        out.push(entry.path());
    }
    Ok(())
}

fn compile(name: &str) -> Result<Name, String> {
    let mut literal = String::new();
    let mut regex = String::from("(?s)^(?:");
    let mut wild = false;
    let mut depth = 0usize;
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let Some(escaped) = characters.next() else {
                    return Err("it ends in a backslash".to_owned());
                };
                literal.push(escaped);
                regex.push_str(&regex::escape(&escaped.to_string()));
            }
            '*' => {
                wild = true;
                regex.push_str(".*");
            }
            '?' => {
                wild = true;
                regex.push('.');
            }
            '[' => {
                wild = true;
                regex.push_str(&class(&mut characters)?);
            }
            '{' => {
                wild = true;
                depth += 1;
                regex.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                regex.push(')');
            }
            ',' if depth > 0 => regex.push('|'),
            other => {
                literal.push(other);
                regex.push_str(&regex::escape(&other.to_string()));
            }
        }
    }
    if depth > 0 {
        return Err("a { is not closed; alternatives can't span a /".to_owned());
    }
    if !wild {
        return Ok(Name::Literal(literal));
    }
    regex.push_str(")$");
    let matches = Regex::new(&regex).map_err(|error| error.to_string())?;
    Ok(Name::Wild {
        matches,
        dot: name.starts_with('.'),
    })
}

/// What follows a `[`, through its `]`, as a class of the regex crate.
fn class(characters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let mut class = String::from("[");
    let mut members = 0;
    let mut first = true;
    while let Some(character) = characters.next() {
        match character {
            ']' if members > 0 => {
                class.push(']');
                return Ok(class);
            }
            '^' | '!' if first => class.push('^'),
            '-' => {
                members += 1;
                class.push('-');
            }
            '\\' => {
                let Some(escaped) = characters.next() else {
                    break;
                };
                members += 1;
                class.push_str(&regex::escape(&escaped.to_string()));
            }
            other => {
                members += 1;
                class.push_str(&regex::escape(&other.to_string()));
            }
        }
        first = false;
    }
    Err("a [ is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(root: &Path, pattern: &str) -> Vec<String> {
        let pattern = format!("{}/{pattern}", root.display());
        let folders = Folders::parse(&pattern, None).unwrap().expand().unwrap();
        let relative = |folder: &PathBuf| {
            folder
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        folders.iter().map(relative).collect()
    }

    #[test]
    fn patterns_stand_for_folders() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a/in", "b/in", "c/out", ".d/in", "e*/in"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("file"), "").unwrap();
        let root = root.path();
        assert_eq!(expanded(root, "*"), ["a", "b", "c", "e*"]);
        assert_eq!(expanded(root, "*/in"), ["a/in", "b/in", "e*/in"]);
        assert_eq!(expanded(root, "[ac]/*"), ["a/in", "c/out"]);
        assert_eq!(expanded(root, "[^a-b]"), ["c"]);
        assert_eq!(expanded(root, "{a,c}"), ["a", "c"]);
        assert_eq!(expanded(root, ".*/in"), [".d/in"]);
        assert_eq!(expanded(root, "e\\*/in"), ["e*/in"]);
        assert_eq!(expanded(root, "none*"), [""; 0]);
        assert_eq!(expanded(root, "not/there"), ["not/there"]);
    }

    #[test]
    fn a_relative_pattern_is_below_the_folder_that_it_is_relative_to() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("logs/a")).unwrap();
        let found = |pattern: &str| {
            let folders = Folders::parse(pattern, Some(root.path())).unwrap();
            folders.expand().unwrap()
        };
        let wanted = [root.path().join("logs/a")];
        for pattern in ["logs/*", "./logs/*", "file://logs/a"] {
            assert_eq!(found(pattern), wanted, "{pattern}");
        }
        assert_eq!(found("/no/such"), [Path::new("/no/such")]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(matches!(
            Folders::parse("s3://bucket/in", None),
            Err(PatternError::Scheme(_))
        ));
        for pattern in ["/in/[a", "/in/{a,b", "/in/{a/b}", "/in/[z-a]"] {
            let error = Folders::parse(pattern, None).unwrap_err();
            assert!(error.to_string().contains(pattern), "{error}");
        }
    }
}
