//! Programs of Structured Streaming; see the Cargo example targets. The Rust code of its page is compiled here as documentation tests.

#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/structured-streaming.md")]
    struct StructuredStreaming;
}
