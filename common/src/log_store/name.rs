//! What an entry may be called.

use super::Error;

const MAX_PART_BYTES: usize = 255;
const MAX_NAME_BYTES: usize = 1024;

/// Checks a whole name. No name that passes can lead out of its store, or be taken for a temporary file.
pub(super) fn check(name: &str) -> Result<(), Error> {
    let refused = |reason| {
        Err(Error::Name {
            name: name.to_owned(),
            reason,
        })
    };
    if name.len() > MAX_NAME_BYTES {
        return refused("it is longer than 1024 bytes");
    }
    for part in name.split('/') {
        if part.is_empty() {
            return refused("it is empty, or has an empty part");
        }
        if part.starts_with('.') {
            return refused("a part of it begins with a dot");
        }
        if part.len() > MAX_PART_BYTES {
            return refused("a part of it is longer than 255 bytes");
        }
        if part.chars().any(|c| c == '\\' || c.is_control()) {
            return refused("it has a backslash or a control character");
        }
    }
    Ok(())
}

/// Splits a prefix into the folder to look in, with its slash, and what names in it begin with.
pub(super) fn folder_of(prefix: &str) -> Result<&str, Error> {
    let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    if !folder.is_empty() {
        check(&folder[..folder.len() - 1])?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            ".tmp",
            "a/.b",
            "a\\b",
            "a\nb",
            "a\0",
        ] {
            assert!(matches!(check(name), Err(Error::Name { .. })), "{name:?}");
        }
        assert!(check(&"x".repeat(256)).is_err());
        assert!(check(&"x/".repeat(600)).is_err());
        for name in [
            "metadata",
            "offsets/17",
            "state/count by word/3/17-2.0.delta",
            "sources/0/größe",
        ] {
            assert!(check(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn folders_of_prefixes() {
        assert_eq!(folder_of("").unwrap(), "");
        assert_eq!(folder_of("off").unwrap(), "");
        assert_eq!(folder_of("offsets/").unwrap(), "offsets/");
        assert_eq!(folder_of("sources/0/se").unwrap(), "sources/0/");
        assert!(folder_of("../x").is_err());
        assert!(folder_of("/").is_err());
    }
}
