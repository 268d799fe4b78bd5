//! Programs of Structured Streaming; see the Cargo example targets. The Rust code of its pages is run here as documentation tests; what needs a broker or never ends is compiled.

#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/structured-streaming.md")]
    struct StructuredStreaming;

    #[doc = include_str!("../../../docs/structured/reading.md")]
    struct Reading;

    #[doc = include_str!("../../../docs/structured/querying.md")]
    struct Querying;

    #[doc = include_str!("../../../docs/structured/writing.md")]
    struct Writing;

    #[doc = include_str!("../../../docs/structured/managing.md")]
    struct Managing;

    #[doc = include_str!("../../../docs/structured/recovery.md")]
    struct Recovery;
}
