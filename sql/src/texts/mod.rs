//! What texts mean: dates, times and numbers, as Spark's casts take them, and its readers of CSV and JSON in part.
//!
//! Layout:
//! - `numbers`: numbers and truths
//! - `times`: dates and times
//! - `zones`: the zone at a time's end

pub(crate) mod numbers;
pub(crate) mod times;
mod zones;

/// Without what Spark passes over at both ends: white space and control characters.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|letter: char| letter <= ' ' || letter == '\u{7f}')
}
