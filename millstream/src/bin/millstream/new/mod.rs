//! `millstream new`: a crate with a job.

mod names;
mod templates;
mod workspaces;

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;

use self::templates::{Origin, Values};

/// Writes a crate with a job, its test, a Dockerfile and a README
///
/// The crate is a workspace of its own in a new folder. All of it is written, or nothing.
#[derive(Args, Debug)]
pub struct NewArgs {
    /// Name of the crate and of its folder: small letters, digits, - and _
    name: String,
    /// A checkout of Millstream that the crate is built with; without it the crate needs the release of this program's version on crates.io
    #[arg(long, value_name = "CHECKOUT")]
    path: Option<PathBuf>,
}

/// Why no crate was written. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name can't be taken.
    #[error("{name:?} can't be the crate's name: {objection}; try `millstream new {suggestion}`")]
    Name {
        name: String,
        objection: String,
        suggestion: String,
    },
    /// A file or folder of that name is there.
    #[error(
        "{} exists already and is left as it is; try `millstream new {suggestion}`, or another folder",
        path.display()
    )]
    Exists { path: PathBuf, suggestion: String },
    /// `--path` names no checkout.
    #[error(
        "--path {}: no checkout of Millstream is there ({reason}); give the folder that holds Millstream's README.md and the folder `millstream`",
        path.display()
    )]
    NoCheckout { path: PathBuf, reason: String },
    /// A workspace around the folder would take the crate for one of its own.
    #[error(
        "the crate is a workspace of its own, but {} has members = [.. \"{pattern}\" ..], which takes {} in: cargo would refuse both; add {excluded:?} to `exclude` there, or make the crate in another folder",
        manifest.display(), folder.display()
    )]
    Member {
        folder: PathBuf,
        manifest: PathBuf,
        pattern: String,
        excluded: String,
    },
    /// The machine refuses.
    #[error("could not write the crate to {}: {source}; nothing of it is left", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Error {
    /// The process's exit code: 2 where other arguments help.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Name { .. }
            | Self::Exists { .. }
            | Self::NoCheckout { .. }
            | Self::Member { .. } => 2,
            Self::Write { .. } => 1,
        }
    }
}

/// Writes the crate into the current folder, and says what to do with it.
///
/// # Errors
/// [`Error`]; nothing was written then.
pub fn run(args: &NewArgs) -> Result<(), Error> {
    let folder = write(args, Path::new(""))?;
    // The crate is there, whether anybody reads this or not.
    let _ = writeln!(
        io::stdout(),
        "Wrote a crate to {0}. Try:\n  cd {0}\n  cargo test\n  cargo run -- --help\nIts README.md has more.",
        folder.display()
    );
    if args.path.is_none() {
        let _ = writeln!(
            io::stdout(),
            "It is built with millstream {version} of crates.io. Where that release isn't there, make it with `--path CHECKOUT` instead.",
            version = env!("CARGO_PKG_VERSION")
        );
    }
    Ok(())
}

/// Writes the crate into `parent`: all of it, or nothing.
fn write(args: &NewArgs, parent: &Path) -> Result<PathBuf, Error> {
    let name = &args.name;
    let is_free = |name: &str| parent.join(name).symlink_metadata().is_err();
    let suggestion = || names::suggestion(name, is_free);
    if let Some(objection) = names::objection(name) {
        return Err(Error::Name {
            name: name.clone(),
            objection,
            suggestion: suggestion(),
        });
    }
    let folder = parent.join(name);
    let exists = || Error::Exists {
        path: folder.clone(),
        suggestion: suggestion(),
    };
    if !is_free(name) {
        return Err(exists());
    }
    let origin = match &args.path {
        Some(checkout) => Origin::Checkout(checkout_at(checkout)?),
        None => Origin::Release,
    };
    if let Some(taken) = workspaces::around(parent, name) {
        return Err(Error::Member {
            folder,
            manifest: taken.manifest,
            pattern: taken.pattern,
            excluded: taken.relative,
        });
    }
    let files = templates::render(&Values { name, origin });
    match write_whole(parent, &folder, &files) {
        Ok(()) => Ok(folder),
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(exists()),
        Err(source) => Err(Error::Write {
            path: folder,
            source,
        }),
    }
}

/// The whole path of a checkout, if one is there.
fn checkout_at(path: &Path) -> Result<String, Error> {
    let refused = |reason: String| Error::NoCheckout {
        path: path.to_owned(),
        reason,
    };
    let manifest = path.join("millstream/Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .map_err(|error| refused(format!("{}: {error}", manifest.display())))?;
    let manifest: toml::Table = text
        .parse()
        .map_err(|_| refused(format!("{} is no manifest", manifest.display())))?;
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str);
    if name != Some(env!("CARGO_PKG_NAME")) {
        return Err(refused("its crate is another one".to_owned()));
    }
    let whole = fs::canonicalize(path).map_err(|error| refused(error.to_string()))?;
    match whole.to_str() {
        Some(text) if !text.contains(['"', '\'', '$', '\\', '\n']) => Ok(text.to_owned()),
        _ => Err(refused(
            "its path has a quote, `$`, a backslash, a line break or no Unicode, which Cargo.toml and Dockerfile can't take"
                .to_owned(),
        )),
    }
}

/// Writes the files below another name and renames their folder at last, so that the crate is never seen half written.
fn write_whole(parent: &Path, folder: &Path, files: &[(&str, String)]) -> io::Result<()> {
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let unfinished = tempfile::Builder::new()
        .prefix(".millstream-new-")
        // Less what the umask takes away.
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent)?;
    for (path, content) in files {
        let path = unfinished.path().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, content)?;
    }
    fs::rename(unfinished.path(), folder)?;
    // It has another name now: nothing is left to remove.
    let _ = unfinished.keep();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn args(name: &str, path: Option<&Path>) -> NewArgs {
        NewArgs {
            name: name.to_owned(),
            path: path.map(Path::to_owned),
        }
    }

    fn checkout() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// What lies directly in a folder.
    fn names_in(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_crate_is_written_whole() {
        let parent = tempfile::tempdir().unwrap();
        let folder = write(&args("orders", None), parent.path()).unwrap();
        assert_eq!(names_in(parent.path()), ["orders".to_owned()].into());
        let expected = [
            ".dockerignore",
            ".gitignore",
            "Cargo.toml",
            "Dockerfile",
            "README.md",
            "src",
            "tests",
        ];
        assert_eq!(names_in(&folder), expected.map(str::to_owned).into());
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_ne!(mode & 0o050, 0, "only its owner can look into it: {mode:o}");
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("orders"));
        assert!(manifest["workspace"].as_table().unwrap().is_empty());
        let millstream = &manifest["dependencies"]["millstream"];
        assert_eq!(millstream.as_str(), Some(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn with_a_checkout_it_depends_on_that() {
        let parent = tempfile::tempdir().unwrap();
        let folder = write(&args("orders", Some(checkout())), parent.path()).unwrap();
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let path = manifest["dependencies"]["millstream"]["path"]
            .as_str()
            .unwrap();
        assert_eq!(
            Path::new(path),
            fs::canonicalize(checkout()).unwrap().join("millstream")
        );
    }

    #[test]
    fn a_bad_name_leaves_nothing_and_the_suggested_one_can_be_taken() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("word-count")).unwrap();
        for bad in [
            "WordCount",
            "test",
            "serde",
            "while",
            "a/b",
            "",
            "word-count",
        ] {
            let before = names_in(parent.path());
            let error = write(&args(bad, None), parent.path()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert_eq!(names_in(parent.path()), before);
            let said = error.to_string();
            let suggestion = said.split("millstream new ").nth(1).unwrap();
            let suggestion = suggestion.split('`').next().unwrap();
            write(&args(suggestion, None), parent.path()).unwrap();
        }
    }

    #[test]
    fn an_existing_file_or_folder_is_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("orders"), "mine").unwrap();
        let error = write(&args("orders", None), parent.path()).unwrap_err();
        assert!(error.to_string().contains("orders-2"), "{error}");
        let kept = fs::read_to_string(parent.path().join("orders")).unwrap();
        assert_eq!(kept, "mine");
    }

    #[test]
    fn a_path_without_a_checkout_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        for wrong in [parent.path(), &checkout().join("millstream")] {
            let error = write(&args("orders", Some(wrong)), parent.path()).unwrap_err();
            assert!(error.to_string().contains("no checkout of Millstream"));
        }
        assert!(names_in(parent.path()).is_empty());
    }

    #[test]
    fn a_checkout_whose_path_docker_would_change_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["a$b", "a'b", "a\"b"] {
            let path = parent.path().join(name);
            fs::create_dir_all(path.join("millstream")).unwrap();
            let manifest = checkout().join("millstream/Cargo.toml");
            fs::copy(manifest, path.join("millstream/Cargo.toml")).unwrap();
            let error = write(&args("orders", Some(&path)), parent.path()).unwrap_err();
            assert!(
                error.to_string().contains("Dockerfile can't take"),
                "{error}"
            );
        }
        assert!(!parent.path().join("orders").exists());
    }

    #[test]
    fn a_workspace_that_would_take_the_crate_in_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let crates = parent.path().join("crates");
        fs::create_dir(&crates).unwrap();
        let manifest = parent.path().join("Cargo.toml");
        fs::write(&manifest, "[workspace]\nmembers = [\"a\", \"crates/*\"]\n").unwrap();
        let error = write(&args("orders", None), &crates).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        for part in [
            "Cargo.toml",
            "\"crates/*\"",
            "\"crates/orders\" to `exclude`",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(names_in(&crates).is_empty());

        let excluding = "[workspace]\nmembers = [\"crates/*\"]\nexclude = [\"crates/orders\"]\n";
        for taken_by_none in [
            excluding,
            "[workspace]\nmembers = [\"apps/*\"]\n",
            "[package]\n",
        ] {
            fs::write(&manifest, taken_by_none).unwrap();
            let folder = write(&args("orders", None), &crates).unwrap();
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn what_can_not_be_written_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let blocked = [
            ("src", "a file".to_owned()),
            ("src/main.rs", "below a file".to_owned()),
        ];
        let folder = parent.path().join("orders");
        write_whole(parent.path(), &folder, &blocked).unwrap_err();
        assert!(names_in(parent.path()).is_empty());
    }
}
