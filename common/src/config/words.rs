//! The keys whose values are one of a few words.

use super::value::Setting;

macro_rules! words {
    ($(
        $(#[doc = $doc:literal])+
        $type:ident { $( $(#[doc = $word_doc:literal])+ $variant:ident = $word:literal, )+ }
    )*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $( $(#[doc = $word_doc])+ $variant, )+
        }

        impl $type {
            /// The word that stands for it.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl Setting for $type {
            type Bound = std::convert::Infallible;

            fn parse(text: &str) -> Option<Self> {
                match text.trim() {
                    $( $word => Some(Self::$variant), )+
                    _ => None,
                }
            }

            fn to_text(&self) -> String {
                self.as_str().to_owned()
            }

            fn noun() -> String {
                let words = [$( concat!("`", $word, "`") ),+];
                format!("one of {}", words.join(", "))
            }

            fn within(&self, low: &Self::Bound, _: Option<&Self::Bound>) -> bool {
                match *low {}
            }

            fn show_bound(bound: &Self::Bound) -> String {
                match *bound {}
            }
        }
    )*};
}

words! {
    /// What to do with an input record that cannot be decoded.
    OnMalformed {
        /// Fail the task.
        Fail = "fail",
        /// Leave the record out.
        Drop = "drop",
        /// Put U+FFFD in the place of what is not UTF-8; only for text, else the task fails.
        Replace = "replace",
    }

    /// What to do when a source no longer has records that a batch needs.
    OnDataLoss {
        /// Fail the batch.
        Fail = "fail",
        /// Go on with what is left, and say what is missing.
        Warn = "warn",
    }

    /// What to do when a task that runs again gives other rows than before.
    OnNondeterminism {
        /// Stop the query.
        Fail = "fail",
        /// Report it and go on.
        Warn = "warn",
    }

    /// How shuffle blocks are compressed.
    Compression {
        /// LZ4, where it makes the block smaller.
        Lz4 = "lz4",
        /// Not at all.
        None = "none",
    }

    /// How log lines are written.
    LogFormat {
        /// One readable line an event.
        Text = "text",
        /// One JSON object an event.
        Json = "json",
    }

    /// When progress is shown on standard error.
    ShowProgress {
        /// When standard error is a terminal.
        Auto = "auto",
        /// Always.
        Always = "always",
        /// Never.
        Never = "never",
    }
}
