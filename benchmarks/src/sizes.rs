//! How much of everything is measured.

/// Sizes of one run, the same for all contenders.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Times that each contender runs.
    pub repeats: usize,
    /// Lines of the topic and of the files.
    pub lines: u64,
    /// Lines of a batch of the word counts.
    pub batch_lines: u64,
    /// Batches of a word count that come first and don't count.
    pub warm_batches: usize,
    /// Batches whose fixed cost is measured; the driver shows no more than its newest 1,000.
    pub small_batches: usize,
    /// The same for Spark, whose batches take longer.
    pub spark_small_batches: usize,
    /// Those that come first and don't count.
    pub warm_small_batches: usize,
    /// Launches of ours; Spark's are `repeats`.
    pub launches: usize,
    /// Executors killed, one a run.
    pub kills: usize,
    /// Batches of the simulated scheduler, each of 8,008 tasks.
    pub scheduler_batches: u64,
    /// Sizes of state, groups.
    pub state_groups: &'static [u64],
    /// Batches that touch some of the groups.
    pub state_batches: usize,
    /// Those that come first and don't count.
    pub warm_state_batches: usize,
}

/// Files that a batch takes, and partitions of the topic.
pub const SPLITS: u64 = 4;

impl Sizes {
    /// What the table is made with.
    pub fn full() -> Self {
        Self {
            repeats: 3,
            lines: 8_000_000,
            batch_lines: 1_000_000,
            warm_batches: 2,
            small_batches: 500,
            spark_small_batches: 200,
            warm_small_batches: 100,
            launches: 9,
            kills: 5,
            scheduler_batches: 20,
            state_groups: &[10_000, 1_000_000, 10_000_000],
            state_batches: 60,
            warm_state_batches: 20,
        }
    }

    /// Enough to see that everything runs.
    pub fn quick() -> Self {
        Self {
            repeats: 1,
            lines: 400_000,
            batch_lines: 50_000,
            warm_batches: 2,
            small_batches: 50,
            spark_small_batches: 10,
            warm_small_batches: 10,
            launches: 2,
            kills: 1,
            scheduler_batches: 1,
            state_groups: &[10_000, 1_000_000],
            state_batches: 5,
            warm_state_batches: 2,
        }
    }

    /// Batches of a word count.
    pub fn batches(&self) -> usize {
        usize::try_from(self.lines / self.batch_lines).unwrap_or(1)
    }

    /// Files of the word count.
    pub fn files(&self) -> u64 {
        self.lines / self.batch_lines * SPLITS
    }
}
