//! Runnable Millstream programs; see the Cargo example targets. The Rust code of the project's pages is compiled here as documentation tests.

#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/quickstart.md")]
    struct Quickstart;

    #[doc = include_str!("../../docs/writing-a-job.md")]
    struct WritingAJob;

    #[doc = include_str!("../../docs/own-job.md")]
    struct OwnJob;

    #[doc = include_str!("../../docs/guarantees.md")]
    struct Guarantees;

    #[doc = include_str!("../../docs/object-stores.md")]
    struct ObjectStores;

    #[doc = include_str!("../../docs/troubleshooting.md")]
    struct Troubleshooting;
}
