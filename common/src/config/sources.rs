//! Reads keys and values out of TOML, variables and flags, and finds what an unknown key may have meant.

use std::ffi::{OsStr, OsString};
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::REDACTED;
use super::declare::{Spec, VARIABLE_PREFIX};
use super::error::{Error, Origin};

/// How alike an unknown key and a valid one must be (1 is equal) for the valid one to be offered.
const ALIKE: f64 = 0.6;

/// A value as it was given, not checked yet.
pub(super) struct Given {
    pub(super) origin: Origin,
    pub(super) name: String,
    pub(super) value: String,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the value: whether it is a secret is known only for a valid name.
        write!(f, "{} from {}", self.name, self.origin)
    }
}

/// Reads the leaves of a TOML document.
pub(super) fn read_toml(path: &str, text: &str) -> Result<Vec<Given>, Error> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            return Err(Error::Toml {
                path: path.to_owned(),
                line: line_at(text, offset),
                message: error.message().to_owned(),
            });
        }
    };
    let mut leaves = Vec::new();
    let file = File { path, text };
    file.read_table(document.get_ref(), "", &mut leaves);
    Ok(leaves)
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    // The parser bounds how deep tables nest, and with it this recursion.
    fn read_table(&self, table: &DeTable<'_>, prefix: &str, leaves: &mut Vec<Given>) {
        for (key, value) in table {
            let name = match prefix {
                "" => key.get_ref().to_string(),
                _ => format!("{prefix}.{}", key.get_ref()),
            };
            let text = match value.get_ref() {
                DeValue::Table(inner) => {
                    self.read_table(inner, &name, leaves);
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Boolean(flag) => flag.to_string(),
                DeValue::Integer(integer) => {
                    match i64::from_str_radix(integer.as_str(), integer.radix()) {
                        Ok(number) => number.to_string(),
                        Err(_) => integer.to_string(),
                    }
                }
                DeValue::Float(float) => float.as_str().to_owned(),
                // No key takes these: shown as they are written, and refused as a bad value.
                DeValue::Datetime(_) | DeValue::Array(_) => {
                    self.text.get(value.span()).unwrap_or_default().to_owned()
                }
            };
            leaves.push(Given {
                origin: Origin::File {
                    path: self.path.to_owned(),
                    line: line_at(self.text, key.span().start),
                },
                name,
                value: text,
            });
        }
    }
}

fn line_at(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().iter().take(offset);
    let newlines = before.filter(|byte| **byte == b'\n').count();
    u32::try_from(newlines + 1).unwrap_or(u32::MAX)
}

/// Reads a variable, if it is meant for the configuration.
pub(super) fn read_variable(name: &OsStr, value: OsString) -> Result<Option<Given>, Error> {
    let Some(name) = name.to_str() else {
        return Ok(None);
    };
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else {
        return Ok(None);
    };
    let origin = Origin::Variable {
        name: name.to_owned(),
    };
    let key = rest.to_ascii_lowercase().replace("__", ".");
    let spec = Spec::find(&key);
    if spec.is_none() && !rest.contains("__") {
        // `MILLSTREAM_TASK_MAX_FAILURES`: surely meant for us, unlike `MILLSTREAM_LOG`.
        let meant = Spec::all()
            .iter()
            .find(|spec| spec.name().replace('.', "_") == key);
        return match meant {
            Some(spec) => Err(Error::UnknownKey {
                given: name.to_owned(),
                origin,
                nearest: Some(spec.variable()),
            }),
            None => Ok(None),
        };
    }
    match (value.into_string(), spec) {
        (Ok(value), _) => Ok(Some(Given {
            origin,
            name: key,
            value,
        })),
        (Err(_), None) => Err(unknown_key(&key, origin)),
        (Err(value), Some(spec)) => Err(Error::BadValue {
            key: spec.name(),
            value: match spec.is_secret() {
                true => REDACTED.to_owned(),
                false => value.to_string_lossy().into_owned(),
            },
            origin,
            expected: "UTF-8".to_owned(),
        }),
    }
}

/// Reads what stands after `--conf`.
pub(super) fn read_flag(text: &str) -> Result<Given, Error> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Error::FlagWithoutValue {
            given: text.to_owned(),
        });
    };
    Ok(Given {
        origin: Origin::Flag {
            flag: "--conf".to_owned(),
        },
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
    })
}

/// The error for a key that does not exist, with the nearest one that does.
pub(super) fn unknown_key(name: &str, origin: Origin) -> Error {
    let nearest = nearest_key(name);
    match &origin {
        Origin::Variable { name: variable } => Error::UnknownKey {
            given: variable.clone(),
            nearest: nearest.map(Spec::variable),
            origin,
        },
        _ => Error::UnknownKey {
            given: name.to_owned(),
            nearest: nearest.map(|spec| spec.name().to_owned()),
            origin,
        },
    }
}

/// The key most like a name, which may also be spelt as Spark spells it (`spark.task.maxFailures`).
fn nearest_key(name: &str) -> Option<&'static Spec> {
    let spelt = snake_case(name);
    let mut nearest = None;
    let mut best = ALIKE;
    for spec in Spec::all() {
        let whole = strsim::normalized_damerau_levenshtein(&spelt, spec.name());
        // The right key in a wrong group is near too.
        let last_parts = spec.name().rsplit('.').next() == spelt.rsplit('.').next();
        let score = if last_parts {
            whole.max(ALIKE) + 0.1
        } else {
            whole
        };
        if score > best {
            best = score;
            nearest = Some(spec);
        }
    }
    nearest
}

fn snake_case(name: &str) -> String {
    let name = name.strip_prefix("spark.").unwrap_or(name);
    let name = name.strip_prefix("streaming.").unwrap_or(name);
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(match letter {
            '-' => '_',
            other => other.to_ascii_lowercase(),
        });
    }
    snake
}
