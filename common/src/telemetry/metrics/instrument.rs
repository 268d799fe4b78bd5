//! The kinds of metrics, and the macro that declares a component's metrics.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

use super::labels::{LabelSpec, Labels};

/// What the table says of a metric.
#[derive(Debug)]
pub struct MetricSpec {
    /// Its name, as it is served.
    pub name: &'static str,
    pub(super) doc: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub(super) labels: &'static [LabelSpec],
}

impl MetricSpec {
    /// What it says, in a sentence or two.
    pub fn help(&self) -> String {
        let words: Vec<&str> = self.doc.split_whitespace().collect();
        words.join(" ")
    }

    /// The names of its labels.
    pub fn label_names(&self) -> impl Iterator<Item = &'static str> {
        self.labels.iter().map(|label| label.name)
    }

    pub(super) fn register(&self, registry: &mut Registry, metric: impl Metric) {
        // The registry appends the full stop, the unit and a counter's `_total` itself.
        let help = self.help();
        let help = help.strip_suffix('.').unwrap_or(&help);
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        if let Some(name) = name.strip_suffix("_seconds") {
            registry.register_with_unit(name, help, Unit::Seconds, metric);
        } else if let Some(name) = name.strip_suffix("_bytes") {
            registry.register_with_unit(name, help, Unit::Bytes, metric);
        } else {
            registry.register(name, help, metric);
        }
    }
}

/// A kind of metric that a table can hold.
pub trait Instrument: Clone {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;

    /// Its labels; none for a single value.
    const LABELS: &'static [LabelSpec];

    /// One at zero.
    fn create() -> Self;

    /// Makes it part of what a process serves.
    fn register(&self, spec: &MetricSpec, registry: &mut Registry);
}

macro_rules! single_instrument {
    ($($type:ty, $kind:literal, $create:expr, $metric:expr;)*) => {$(
        impl Instrument for $type {
            const KIND: &'static str = $kind;
            const LABELS: &'static [LabelSpec] = &[];

            fn create() -> Self {
                $create
            }

            fn register(&self, spec: &MetricSpec, registry: &mut Registry) {
                spec.register(registry, $metric(self.clone()));
            }
        }
    )*};
}

single_instrument! {
    Counter, "counter", Counter::default(), |counter: Counter| counter;
    Gauge, "gauge", Gauge::default(), |gauge: Gauge| gauge;
    DurationHistogram, "histogram", DurationHistogram::new(), |histogram: DurationHistogram| histogram.0;
}

/// A histogram of durations, in buckets that double from 0.5 ms to about a minute.
#[derive(Clone, Debug)]
pub struct DurationHistogram(Histogram);

impl DurationHistogram {
    fn new() -> Self {
        Self(new_histogram())
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

fn new_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 18))
}

/// A metric with labels: one value for each set of labels.
///
/// A set lives until it is removed, so labels must be few: queries, partitions, fixed words; never batches or tasks.
#[derive(Clone, Debug)]
pub struct By<L, M: Labelled>(Family<L, M::Inner, fn() -> M::Inner>)
where
    L: Labels;

/// A kind of metric that can have labels.
pub trait Labelled: Instrument {
    /// The type of the metrics library.
    type Inner: Metric + Clone + prometheus_client::metrics::TypedMetric;

    /// One at zero.
    fn create_inner() -> Self::Inner;

    /// Wraps it.
    fn wrap(inner: Self::Inner) -> Self;
}

impl Labelled for Counter {
    type Inner = Self;

    fn create_inner() -> Self {
        Self::default()
    }

    fn wrap(inner: Self) -> Self {
        inner
    }
}

impl Labelled for Gauge {
    type Inner = Self;

    fn create_inner() -> Self {
        Self::default()
    }

    fn wrap(inner: Self) -> Self {
        inner
    }
}

impl Labelled for DurationHistogram {
    type Inner = Histogram;

    fn create_inner() -> Histogram {
        new_histogram()
    }

    fn wrap(inner: Histogram) -> Self {
        Self(inner)
    }
}

impl<L: Labels, M: Labelled> By<L, M> {
    /// The value for a set of labels. Where it is counted often, keep it: finding it takes a lock.
    pub fn with(&self, labels: &L) -> M {
        M::wrap(self.0.get_or_create_owned(labels))
    }

    /// Stops serving a set of labels; says whether it was there.
    pub fn remove(&self, labels: &L) -> bool {
        self.0.remove(labels)
    }
}

impl<L: Labels, M: Labelled> Instrument for By<L, M> {
    const KIND: &'static str = M::KIND;
    const LABELS: &'static [LabelSpec] = L::SPECS;

    fn create() -> Self {
        let family = Family::new_with_constructor(M::create_inner as fn() -> M::Inner);
        for labels in L::known() {
            family.get_or_create_owned(labels);
        }
        Self(family)
    }

    fn register(&self, spec: &MetricSpec, registry: &mut Registry) {
        spec.register(registry, self.0.clone());
    }
}

/// Declares the metrics of components: `"name" field: kind;`.
macro_rules! declare_metrics {
    ($(
        $(#[doc = $component_doc:literal])+
        $component:ident $title:literal {
            $(
                $(#[doc = $doc:literal])+
                $name:literal $field:ident: $type:ty;
            )*
        }
    )*) => {
        $(
            $(#[doc = $component_doc])+
            #[derive(Clone, Debug)]
            pub struct $component {
                $( $(#[doc = $doc])+ pub $field: $type, )*
            }

            impl $component {
                const SPECS: &'static [MetricSpec] = &[
                    $( MetricSpec {
                        name: $name,
                        doc: concat!($($doc, "\n"),+),
                        kind: <$type as Instrument>::KIND,
                        labels: <$type as Instrument>::LABELS,
                    }, )*
                ];

                pub(super) fn new() -> Self {
                    Self { $( $field: <$type as Instrument>::create(), )* }
                }

                pub(super) fn register(&self, registry: &mut Registry) {
                    let mut specs = Self::SPECS.iter();
                    $(
                        if let Some(spec) = specs.next() {
                            Instrument::register(&self.$field, spec, registry);
                        }
                    )*
                }
            }
        )*

        pub(super) static SPECS: &[(&str, &[MetricSpec])] = &[ $( ($title, $component::SPECS), )* ];
    };
}

pub(super) use declare_metrics;
