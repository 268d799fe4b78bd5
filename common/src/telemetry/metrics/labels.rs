//! The labels of metrics and the words they can be.

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

/// A set of labels that a metric can have.
pub trait Labels: EncodeLabelSet + Clone + Debug + Hash + Eq + Send + Sync + 'static {
    /// The labels, in the order in which they are served.
    const SPECS: &'static [LabelSpec];

    /// The sets that are served from the start, at zero.
    fn known() -> &'static [Self] {
        &[]
    }
}

/// What is known of a label.
#[derive(Clone, Copy, Debug)]
pub struct LabelSpec {
    pub(super) name: &'static str,
    /// The values it can have; empty when any.
    pub(super) words: &'static [&'static str],
}

impl LabelSpec {
    pub(super) fn describe(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|word| format!("`{word}`")).collect();
        match words.is_empty() {
            true => format!("`{}`", self.name),
            false => format!("`{}`: {}", self.name, words.join(", ")),
        }
    }
}

/// Enums that are the value of one label, and a set of labels by themselves.
macro_rules! label_words {
    ($(
        $(#[doc = $doc:literal])+
        $type:ident $label:literal { $( $(#[doc = $word_doc:literal])+ $variant:ident = $word:literal, )+ }
    )*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $( $(#[doc = $word_doc])+ $variant, )+
        }

        impl $type {
            const SPEC: LabelSpec = LabelSpec { name: $label, words: &[$($word),+] };

            /// The label's value.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }

        impl EncodeLabelSet for $type {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelSet::encode(&[($label, self.as_str())], encoder)
            }
        }

        impl Labels for $type {
            const SPECS: &'static [LabelSpec] = &[Self::SPEC];

            fn known() -> &'static [Self] {
                &[$( Self::$variant ),+]
            }
        }
    )*};
}

label_words! {
    /// How a batch ended.
    BatchOutcome "outcome" {
        /// All outputs are written and committed.
        Committed = "committed",
        /// It stopped its query.
        Failed = "failed",
    }

    /// How an attempt of a task ended.
    TaskOutcome "outcome" {
        /// Its result counts.
        Succeeded = "succeeded",
        /// It failed.
        Failed = "failed",
        /// It was told to stop.
        Cancelled = "cancelled",
        /// Its executor was lost.
        Lost = "lost",
        /// Another attempt fenced it at its sink.
        Superseded = "superseded",
    }

    /// Where a task ran, against where its data is.
    LocalityLevel "level" {
        /// On the executor that holds its consumer, block or state.
        Preferred = "preferred",
        /// On another one.
        Other = "other",
    }

    /// Whether a task found its Kafka records ready.
    RangeState "state" {
        /// All of them had been read ahead.
        Buffered = "buffered",
        /// The task waited for the broker.
        Awaited = "awaited",
    }

    /// Where a shuffle block was read from.
    ReadOrigin "origin" {
        /// The task's own executor.
        Local = "local",
        /// A peer.
        Remote = "remote",
    }
}

/// The label of what is counted for each query.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryLabel {
    /// The query's name; without one the application's.
    pub query: String,
}

const QUERY: LabelSpec = LabelSpec {
    name: "query",
    words: &[],
};

impl Labels for QueryLabel {
    const SPECS: &'static [LabelSpec] = &[QUERY];
}

/// The labels of ended batches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BatchLabels {
    /// The query's name; without one the application's.
    pub query: String,
    /// How the batch ended.
    pub outcome: BatchOutcome,
}

impl Labels for BatchLabels {
    const SPECS: &'static [LabelSpec] = &[QUERY, BatchOutcome::SPEC];
}

/// The labels of a source partition's lag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LagLabels {
    /// The query's name; without one the application's.
    pub query: String,
    /// The source's id.
    pub source: String,
    /// The partition, for Kafka topic and partition number: `lines-0`.
    pub partition: String,
}

impl Labels for LagLabels {
    const SPECS: &'static [LabelSpec] = &[
        QUERY,
        LabelSpec {
            name: "source",
            words: &[],
        },
        LabelSpec {
            name: "partition",
            words: &[],
        },
    ];
}

/// The labels of an operator that keeps state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperatorLabels {
    /// The query's name; without one the application's.
    pub query: String,
    /// The operator's id.
    pub operator: String,
}

impl Labels for OperatorLabels {
    const SPECS: &'static [LabelSpec] = &[
        QUERY,
        LabelSpec {
            name: "operator",
            words: &[],
        },
    ];
}
