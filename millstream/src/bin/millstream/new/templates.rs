//! The files of a new crate. A template is a file below `templates/job` with placeholders such as `{{name}}`.

/// What the placeholders stand for.
pub(super) struct Values<'a> {
    /// The crate's name.
    pub name: &'a str,
    /// Where it has Millstream from.
    pub origin: Origin,
}

/// Where the crate has Millstream from.
pub(super) enum Origin {
    /// The release of this program's version.
    Release,
    /// A checkout, by its whole path.
    Checkout(String),
}

/// Path in the crate, and template. The templates' own names keep cargo and git from taking them for their own.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        include_str!("../../../../templates/job/Cargo.toml.in"),
    ),
    (
        "README.md",
        include_str!("../../../../templates/job/README.md.in"),
    ),
    (
        "Dockerfile",
        include_str!("../../../../templates/job/Dockerfile.in"),
    ),
    (
        ".dockerignore",
        include_str!("../../../../templates/job/dockerignore.in"),
    ),
    (
        ".gitignore",
        include_str!("../../../../templates/job/gitignore.in"),
    ),
    (
        "src/lib.rs",
        include_str!("../../../../templates/job/lib.rs.in"),
    ),
    (
        "src/main.rs",
        include_str!("../../../../templates/job/main.rs.in"),
    ),
    (
        "tests/word_count.rs",
        include_str!("../../../../templates/job/word_count.rs.in"),
    ),
];

/// In the README, instructions for images of a crate that takes Millstream from a checkout.
const IMAGE_OF_CHECKOUT: &str = include_str!("../../../../templates/job/image-of-checkout.md.in");
/// The same for a release.
const IMAGE_OF_RELEASE: &str = include_str!("../../../../templates/job/image-of-release.md.in");

/// The files: path in the crate, and content.
pub(super) fn render(values: &Values<'_>) -> Vec<(&'static str, String)> {
    let version = env!("CARGO_PKG_VERSION");
    let (dependency, image, build_context) = match &values.origin {
        Origin::Release => (format!("\"{version}\""), IMAGE_OF_RELEASE, String::new()),
        Origin::Checkout(path) => (
            format!("{{ path = \"{path}/millstream\" }}"),
            IMAGE_OF_CHECKOUT,
            format!("COPY --from=millstream [\".\", \"{path}\"]\n"),
        ),
    };
    let checkout = match &values.origin {
        Origin::Release => "",
        Origin::Checkout(path) => path,
    };
    let module = values.name.replace('-', "_");
    // The first may hold others.
    let replacements = [
        ("image", image.trim_end()),
        ("name", values.name),
        ("module", &module),
        ("millstream", &dependency),
        ("copy_checkout", &build_context),
        ("checkout", checkout),
        ("rust", env!("CARGO_PKG_RUST_VERSION")),
    ];
    let rendered = TEMPLATES.iter().map(|(path, template)| {
        let mut text = (*template).to_owned();
        for (placeholder, value) in replacements {
            text = text.replace(&format!("{{{{{placeholder}}}}}"), value);
        }
        (*path, text)
    });
    rendered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(name: &str, checkout: &str, path: &str) -> String {
        let files = render(&Values {
            name,
            origin: Origin::Checkout(checkout.to_owned()),
        });
        let found = files.into_iter().find(|(of_file, _)| *of_file == path);
        found.unwrap().1
    }

    #[test]
    fn a_checkout_with_a_space_in_its_path_is_one_word_everywhere() {
        let checkout = "/home/me/my checkout";
        let of = |path| rendered("orders", checkout, path);
        let copied = "\nCOPY --from=millstream [\".\", \"/home/me/my checkout\"]\n";
        assert!(of("Dockerfile").contains(copied));
        let context = "--build-context 'millstream=/home/me/my checkout' .";
        assert!(of("README.md").contains(context));
        assert!(of("Cargo.toml").contains("\"/home/me/my checkout/millstream\""));
    }

    /// A path whose first word is both a crate and a name in scope is an error of the compiler's.
    #[test]
    fn a_crate_called_as_something_in_scope_is_meant_by_its_whole_path() {
        for name in ["kafka", "fs", "word-count"] {
            let module = name.replace('-', "_");
            let test = rendered(name, "/m", "tests/word_count.rs");
            assert!(test.contains(&format!("\nuse ::{module}::{{Args, word_count}};\n")));
            let main = rendered(name, "/m", "src/main.rs");
            assert!(main.contains(&format!("millstream::launch(::{module}::word_count)")));
        }
    }

    #[test]
    fn no_placeholder_is_left() {
        for origin in [
            Origin::Release,
            Origin::Checkout("/home/me/millstream".to_owned()),
        ] {
            let files = render(&Values {
                name: "word-count",
                origin,
            });
            for (path, text) in files {
                assert!(!text.contains("{{"), "{path}: {text}");
                assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{path}");
            }
        }
    }
}
