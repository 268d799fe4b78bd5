//! The format of log entries: lines of JSON that a person can read, of which no part can go missing or change unseen.
//!
//! ```text
//! {"millstream":"offsets","version":1}
//! {...}                                        one line or more
//! {"lines":1,"xxh3":"97a2b3c4d5e6f708"}        checksum of all that stands before
//! ```

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Version of this format. An entry of a newer one is refused.
pub const VERSION: u32 = 1;

/// Why an entry could not be read or made. Every message names the entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It ends too early: nothing was written behind, or something was cut off.
    #[error(
        "`{name}` is cut off: its last line with the checksum is missing; restore it from a backup, or start with a new checkpoint"
    )]
    Truncated {
        /// The entry.
        name: String,
    },
    /// Its checksum is wrong.
    #[error(
        "`{name}` was altered after it was written, as its checksum is wrong: restore it from a backup, or start with a new checkpoint"
    )]
    Altered {
        /// The entry.
        name: String,
    },
    /// It is whole, but of another kind.
    #[error(
        "`{name}` is an entry of kind `{found}` where one of kind `{wanted}` belongs: is this another log's file?"
    )]
    OtherKind {
        /// The entry.
        name: String,
        /// The kind expected.
        wanted: String,
        /// The kind in its header.
        found: String,
    },
    /// A newer Millstream wrote it.
    #[error(
        "`{name}` has format version {found}, this build reads up to {VERSION}: go on with the newer build that wrote it"
    )]
    NewerVersion {
        /// The entry.
        name: String,
        /// Its version.
        found: u32,
    },
    /// It never was such an entry.
    #[error("`{name}` is no Millstream log entry of this kind: {reason}")]
    Malformed {
        /// The entry.
        name: String,
        /// What doesn't fit.
        reason: String,
    },
    /// The value can't be written as JSON.
    #[error("an entry of kind `{kind}` could not be written as JSON")]
    Encode {
        /// The kind.
        kind: String,
        /// What serde said.
        #[source]
        source: serde_json::Error,
    },
}

const HEADER_START: &[u8] = br#"{"millstream":"#;

#[derive(Serialize, Deserialize)]
struct Header {
    millstream: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    lines: u64,
    xxh3: String,
}

/// Makes and reads entries.
#[derive(Debug)]
pub struct Entry;

impl Entry {
    /// An entry with one value.
    pub fn encode<T: Serialize>(kind: &str, value: &T) -> Result<Vec<u8>, EntryError> {
        Entry::encode_lines(kind, std::slice::from_ref(value))
    }

    /// An entry with a line for each value.
    pub fn encode_lines<T: Serialize>(kind: &str, values: &[T]) -> Result<Vec<u8>, EntryError> {
        let failed = |source| EntryError::Encode {
            kind: kind.to_owned(),
            source,
        };
        let mut out = Vec::new();
        append_line(
            &mut out,
            &Header {
                millstream: kind.to_owned(),
                version: VERSION,
            },
        )
        .map_err(failed)?;
        for value in values {
            append_line(&mut out, value).map_err(failed)?;
        }
        let trailer = Trailer {
            lines: values.len() as u64,
            xxh3: checksum(&out),
        };
        append_line(&mut out, &trailer).map_err(failed)?;
        Ok(out)
    }

    /// The value of an entry that [`Entry::encode`] made. `name` is for the error's message.
    pub fn decode<T: DeserializeOwned>(
        kind: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<T, EntryError> {
        let mut values = Entry::decode_lines(kind, name, bytes)?;
        let count = values.len();
        match (values.pop(), count) {
            (Some(value), 1) => Ok(value),
            _ => Err(malformed(
                name,
                format!("it has {count} lines where one belongs"),
            )),
        }
    }

    /// The values of an entry that [`Entry::encode_lines`] made.
    pub fn decode_lines<T: DeserializeOwned>(
        kind: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<Vec<T>, EntryError> {
        let truncated = || EntryError::Truncated {
            name: name.to_owned(),
        };
        let altered = || EntryError::Altered {
            name: name.to_owned(),
        };
        let Some(header_end) = memchr::memchr(b'\n', bytes) else {
            let could_be_ours = bytes.starts_with(HEADER_START) || HEADER_START.starts_with(bytes);
            return Err(if could_be_ours {
                truncated()
            } else {
                malformed(name, "it has no header line".to_owned())
            });
        };
        let header: Header = serde_json::from_slice(&bytes[..header_end])
            .map_err(|error| malformed(name, format!("its first line is no header: {error}")))?;
        if header.version > VERSION {
            return Err(EntryError::NewerVersion {
                name: name.to_owned(),
                found: header.version,
            });
        }

        let Some(whole) = bytes.strip_suffix(b"\n") else {
            return Err(truncated());
        };
        let trailer_start = memchr::memrchr(b'\n', whole).map_or(0, |newline| newline + 1);
        if trailer_start == 0 {
            return Err(truncated());
        }
        // A cut between two lines leaves a value's line last, which is no trailer.
        let Ok(trailer) = serde_json::from_slice::<Trailer>(&whole[trailer_start..]) else {
            let looks_whole = whole[trailer_start..].starts_with(br#"{"lines":"#);
            return Err(if looks_whole { altered() } else { truncated() });
        };
        let checked = &bytes[..trailer_start];
        if checksum(checked) != trailer.xxh3 {
            return Err(altered());
        }
        if header.millstream != kind {
            let (wanted, found) = (kind.to_owned(), header.millstream);
            return Err(EntryError::OtherKind {
                name: name.to_owned(),
                wanted,
                found,
            });
        }

        let body = &checked[header_end + 1..];
        let lines: Vec<&[u8]> = body.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.len() as u64 != trailer.lines {
            return Err(altered());
        }
        let mut values = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let value = serde_json::from_slice(line)
                .map_err(|error| malformed(name, format!("line {}: {error}", index + 2)))?;
            values.push(value);
        }
        Ok(values)
    }
}

/// JSON as serde_json writes it has no line break within.
fn append_line<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

fn malformed(name: &str, reason: String) -> EntryError {
    EntryError::Malformed {
        name: name.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    struct Offsets {
        epoch: u64,
        nonce: String,
        splits: Vec<(String, i64)>,
    }

    fn offsets() -> Offsets {
        Offsets {
            epoch: 3,
            nonce: "n\n1".into(),
            splits: vec![("t-0".into(), 17), ("t-1".into(), -2)],
        }
    }

    #[test]
    fn golden_entry() {
        let bytes = Entry::encode("offsets", &(1, "a\nb")).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, GOLDEN);
    }

    const GOLDEN: &str = concat!(
        "{\"millstream\":\"offsets\",\"version\":1}\n",
        "[1,\"a\\nb\"]\n",
        "{\"lines\":1,\"xxh3\":\"adfc69e60f8ba564\"}\n",
    );

    #[test]
    fn values_come_back() {
        let bytes = Entry::encode("offsets", &offsets()).unwrap();
        assert_eq!(
            Entry::decode::<Offsets>("offsets", "offsets/1", &bytes).unwrap(),
            offsets()
        );
        let many = Entry::encode_lines("seen", &["a", "b", "c"]).unwrap();
        assert_eq!(
            Entry::decode_lines::<String>("seen", "seen/1", &many).unwrap(),
            ["a", "b", "c"]
        );
        let none = Entry::encode_lines::<u8>("seen", &[]).unwrap();
        assert!(
            Entry::decode_lines::<u8>("seen", "seen/1", &none)
                .unwrap()
                .is_empty()
        );
        assert!(matches!(
            Entry::decode::<u8>("seen", "seen/1", &none),
            Err(EntryError::Malformed { .. })
        ));
    }

    #[test]
    fn every_cut_is_found() {
        let bytes = Entry::encode_lines("offsets", &[offsets(), offsets()]).unwrap();
        for end in 0..bytes.len() {
            let error =
                Entry::decode_lines::<Offsets>("offsets", "offsets/7", &bytes[..end]).unwrap_err();
            assert!(
                matches!(error, EntryError::Truncated { .. }),
                "cut at {end}: {error:?}"
            );
            assert!(error.to_string().contains("offsets/7"), "{error}");
        }
    }

    #[test]
    fn others_are_told_apart() {
        let bytes = Entry::encode("commits", &offsets()).unwrap();
        let other = Entry::decode::<Offsets>("offsets", "x", &bytes).unwrap_err();
        assert!(
            matches!(&other, EntryError::OtherKind { found, .. } if found == "commits"),
            "{other:?}"
        );
        let newer = b"{\"millstream\":\"offsets\",\"version\":2,\"more\":true}\nanything";
        let newer = Entry::decode::<Offsets>("offsets", "x", newer).unwrap_err();
        assert!(matches!(newer, EntryError::NewerVersion { found: 2, .. }));
        for foreign in [
            &b"v1\n{\"batchWatermarkMs\":0}\n"[..],
            b"<html>",
            b"\xff\xfe\n\n",
            b"{\"a\":1}\n",
        ] {
            let error = Entry::decode::<Offsets>("offsets", "x", foreign).unwrap_err();
            assert!(matches!(error, EntryError::Malformed { .. }), "{error:?}");
        }
        let wrong_type = Entry::encode("offsets", &7).unwrap();
        let error = Entry::decode::<Offsets>("offsets", "x", &wrong_type).unwrap_err();
        assert!(matches!(error, EntryError::Malformed { .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn no_altered_byte_passes(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = Entry::encode("offsets", &offsets()).unwrap();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            match Entry::decode::<Offsets>("offsets", "x", &bytes) {
                Err(_) => {}
                // White space or the case of an escape in the last line alone can change nothing.
                Ok(value) => prop_assert_eq!(value, offsets()),
            }
        }

        #[test]
        fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Entry::decode::<Offsets>("offsets", "x", &bytes).is_err());
        }
    }
}
