//! `Text`: a cheap, owned string slice for rows of text.
//!
//! Up to 23 bytes lie inline; a longer one is a counted slice of its buffer, so that `split`, `lines`, `trim`
//! and the like copy nothing large and allocate nothing. A `Text` hashes, compares, orders, prints and
//! serialises exactly as the `String` of the same content.
//!
//! A slice keeps its whole buffer alive. What outlives the chunk it came in (state, windows, cached rows) calls
//! [`Text::detach`]; memory accounting takes [`Text::heap_size`], which counts whole buffers.
//!
//! What was measured (word count over lines of ten short words, processor time per word, 1.0 being a hand-written
//! loop over borrowed words): `Text` lines sliced from a buffer 1.2, `Text` lines copied one by one 1.35, inline strings
//! that copy when long 1.7, a `String` a word 2.6. Decoding rows with a text of about 60 bytes: slices of
//! the block take 0.8 of copies; with short texts there is no difference. So slices it is; a source does best to put a chunk's
//! lines into one buffer and cut it.
//!
//! A text is moved in parts, its first byte and the others. Where it is stored so and loaded as a whole at once, the processor waits until the stores have
//! reached the cache: an `Option` of a text between two operators, or one that a function returns, took a fifth of a word count. So what makes texts goes through
//! them by `fold`, and parts are made inline.

mod blob;
mod block;
mod pattern;
mod pieces;
mod traits;

pub use blob::Blob;
pub use block::Block;
pub use pattern::{Pattern, find_byte};
pub use pieces::{Lines, Split, SplitWhitespace};

use hipstr::HipStr;
use std::ops::{Bound, RangeBounds};

type Inner = HipStr<'static>;

/// Longest text that lies inline, in bytes.
pub const INLINE_CAPACITY: usize = Inner::inline_capacity();

/// Bytes that a shared buffer takes besides its capacity: the count and the buffer's own header.
const BUFFER_HEADER: usize = 4 * size_of::<usize>();

/// Bytes of a short part.
const NEAR: usize = 16;

/// A cheap, owned, immutable string slice. Cloning and slicing copy at most 23 bytes.
#[derive(Clone, Default)]
pub struct Text(Inner);

impl Text {
    /// The empty text.
    pub const fn new() -> Text {
        Text(Inner::new())
    }

    /// A text of a string that lives as long as the program; never allocates.
    pub const fn from_static(text: &'static str) -> Text {
        Text(Inner::from_static(text))
    }

    /// The content.
    #[inline]
    pub const fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The part at `range`, in bytes; `None` if it is out of bounds or cuts a character.
    pub fn get_slice(&self, range: impl RangeBounds<usize>) -> Option<Text> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.checked_add(1)?,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        self.as_str().get(start..end).map(|part| self.part(part))
    }

    /// The part at `range`, in bytes.
    ///
    /// # Panics
    ///
    /// As `&text[range]` does: if the range is out of bounds or cuts a character.
    #[track_caller]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Text {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.part(&self.as_str()[range])
    }

    /// The `Text` of `part`, a slice of this text's own `str`.
    #[inline]
    fn part(&self, part: &str) -> Text {
        if part.len() <= INLINE_CAPACITY {
            return Text(Inner::from(part));
        }
        Text(
            self.0
                .try_slice_ref(part)
                .unwrap_or_else(|| Inner::from(part)),
        )
    }

    /// The part from byte `start` to byte `end`, both of which are of this text and at its characters' bounds. Inlined, as a text that a function returns is
    /// stored in parts and loaded as a whole at once, for which the processor waits.
    #[inline(always)]
    fn part_at(&self, start: usize, end: usize) -> Text {
        let whole = self.as_str();
        // A length that is known beforehand is copied without a loop or a call.
        if end - start <= NEAR
            && let Some(near) = whole.get(start..start + NEAR)
        {
            let mut part = Inner::from(near);
            part.truncate(end - start);
            return Text(part);
        }
        self.part(&whole[start..end])
    }

    /// The pieces between the matches of `separator`: a `char`, a `&str`, or a function of `char`. As
    /// [`str::split`], but the pieces are `Text`s and the iterator owns its text.
    #[inline]
    pub fn split<P: Pattern>(&self, separator: P) -> Split<P> {
        Split::new(self.clone(), separator)
    }

    /// The words between white space; as [`str::split_whitespace`].
    #[inline]
    pub fn split_whitespace(&self) -> SplitWhitespace {
        SplitWhitespace::new(self.clone())
    }

    /// The lines without their ends (`\n` or `\r\n`); as [`str::lines`].
    #[inline]
    pub fn lines(&self) -> Lines {
        Lines::new(self.clone())
    }

    /// What stands before and after the first match of `separator`; `None` without a match.
    pub fn split_once<P: Pattern>(&self, mut separator: P) -> Option<(Text, Text)> {
        let (start, end) = separator.find(self.as_str(), 0)?;
        Some((self.slice(..start), self.slice(end..)))
    }

    /// Without white space at both ends.
    pub fn trim(&self) -> Text {
        self.part(self.as_str().trim())
    }

    /// Without white space at the start.
    pub fn trim_start(&self) -> Text {
        self.part(self.as_str().trim_start())
    }

    /// Without white space at the end.
    pub fn trim_end(&self) -> Text {
        self.part(self.as_str().trim_end())
    }

    /// What follows `prefix`; `None` if the text doesn't begin with it.
    pub fn strip_prefix(&self, prefix: impl AsRef<str>) -> Option<Text> {
        self.as_str()
            .strip_prefix(prefix.as_ref())
            .map(|part| self.part(part))
    }

    /// What precedes `suffix`; `None` if the text doesn't end with it.
    pub fn strip_suffix(&self, suffix: impl AsRef<str>) -> Option<Text> {
        self.as_str()
            .strip_suffix(suffix.as_ref())
            .map(|part| self.part(part))
    }

    /// In lower case; as [`str::to_lowercase`].
    pub fn to_lowercase(&self) -> Text {
        Text(self.0.to_lowercase())
    }

    /// In upper case; as [`str::to_uppercase`].
    pub fn to_uppercase(&self) -> Text {
        Text(self.0.to_uppercase())
    }

    /// The same text in a buffer of its own size, holding on to no larger one.
    #[must_use]
    pub fn detach(self) -> Text {
        if self.0.is_allocated() && self.0.capacity() > self.len() {
            return Text(Inner::from(self.as_str()));
        }
        self
    }

    /// Bytes on the heap that this text keeps alive: its whole buffer, even if it is a small slice of it or shares it.
    pub fn heap_size(&self) -> usize {
        if self.0.is_allocated() {
            self.0.capacity() + BUFFER_HEADER
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::{BuildHasher, Hasher};

    fn string() -> impl Strategy<Value = String> {
        let parts = prop_oneof![
            Just(" ".to_owned()),
            Just("  ".to_owned()),
            Just("\n".to_owned()),
            Just("\r\n".to_owned()),
            Just("\r".to_owned()),
            Just("é".to_owned()),
            Just("\u{2003}".to_owned()),
            Just("ab".to_owned()),
            Just("aba".to_owned()),
            "[a-z]{0,30}",
            ".{0,5}",
        ];
        proptest::collection::vec(parts, 0..12).prop_map(|parts| parts.concat())
    }

    fn pieces<'a>(iterator: impl Iterator<Item = &'a str>) -> Vec<Text> {
        iterator.map(Text::from).collect()
    }

    /// All but the first piece by `fold`, which goes another way than `next`; no more than the iterator said.
    fn folded(mut iterator: impl Iterator<Item = Text>) -> Vec<Text> {
        let (least, most) = iterator.size_hint();
        let mut pieces: Vec<Text> = iterator.next().into_iter().collect();
        iterator.for_each(|piece| pieces.push(piece));
        assert!(least <= pieces.len() && most.is_some_and(|most| pieces.len() <= most));
        pieces
    }

    proptest! {
        #[test]
        fn splits_as_str_does(s in string(), separator in prop_oneof![Just(' '), Just('a'), Just('é'), Just('\u{2003}'), any::<char>()]) {
            let text = Text::from(&s);
            prop_assert_eq!(text.split(separator).collect::<Vec<_>>(), pieces(s.split(separator)));
            prop_assert_eq!(text.split(|c| c == separator).collect::<Vec<_>>(), pieces(s.split(separator)));
            prop_assert_eq!(folded(text.split(separator)), pieces(s.split(separator)));
            prop_assert_eq!(folded(text.split_whitespace()), pieces(s.split_whitespace()));
            prop_assert_eq!(text.split_whitespace().collect::<Vec<_>>(), pieces(s.split_whitespace()));
            prop_assert_eq!(text.lines().collect::<Vec<_>>(), pieces(s.lines()));
            let once = s.split_once(separator).map(|(a, b)| (Text::from(a), Text::from(b)));
            prop_assert_eq!(text.split_once(separator), once);
        }

        #[test]
        fn splits_by_strings_as_str_does(s in string(), separator in prop_oneof![Just(""), Just(" "), Just("aba"), Just("é"), Just("\r\n")]) {
            let text = Text::from(&s);
            prop_assert_eq!(text.split(separator).collect::<Vec<_>>(), pieces(s.split(separator)));
            prop_assert_eq!(folded(text.split(separator)), pieces(s.split(separator)));
            prop_assert_eq!(text.strip_prefix(separator), s.strip_prefix(separator).map(Text::from));
            prop_assert_eq!(text.strip_suffix(separator), s.strip_suffix(separator).map(Text::from));
        }

        #[test]
        fn trims_and_slices_as_str_does(s in string(), a in 0usize..40, b in 0usize..40) {
            let text = Text::from(&s);
            prop_assert_eq!(text.trim(), s.trim());
            prop_assert_eq!(text.trim_start(), s.trim_start());
            prop_assert_eq!(text.trim_end(), s.trim_end());
            prop_assert_eq!(text.get_slice(a..b), s.get(a..b).map(Text::from));
            prop_assert_eq!(text.get_slice(a..), s.get(a..).map(Text::from));
            prop_assert_eq!(text.get_slice(..=b), s.get(..=b).map(Text::from));
            prop_assert_eq!(text.clone().detach(), &s);
        }

        #[test]
        fn is_like_a_string(a in string(), b in string()) {
            let (x, y) = (Text::from(&a), Text::from(b.clone()));
            prop_assert_eq!(x == y, a == b);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(format!("{x} {x:?} {x:>9}"), format!("{a} {a:?} {a:>9}"));
            let state = foldhash::fast::FixedState::default();
            prop_assert_eq!(state.hash_one(&x), state.hash_one(&a));
            prop_assert_eq!(state.hash_one(&x), state.hash_one(a.as_str()));
            prop_assert_eq!(serde_json::to_string(&x).unwrap(), serde_json::to_string(&a).unwrap());
            let back: Text = serde_json::from_str(&serde_json::to_string(&x).unwrap()).unwrap();
            prop_assert_eq!(back, x);
        }
    }

    #[test]
    fn a_slice_shares_the_buffer_until_detached() {
        let long = Text::from("word ".repeat(100));
        let part = long.slice(5..45);
        assert_eq!(part.as_ptr(), long.as_str()[5..].as_ptr());
        assert!(part.heap_size() >= 500);
        let own = part.clone().detach();
        assert_ne!(own.as_ptr(), part.as_ptr());
        assert!((40..100).contains(&own.heap_size()), "{}", own.heap_size());
        assert_eq!(own, part);
        assert_eq!(long.slice(..23).heap_size(), 0);
        assert_eq!(
            Text::from_static("a string that lives as long as the program").heap_size(),
            0
        );
    }

    #[test]
    fn works_in_a_flat_map_that_outlives_the_line() {
        fn flat_map<I: IntoIterator + 'static>(
            lines: Vec<Text>,
            f: impl Fn(Text) -> I + 'static,
        ) -> Vec<I::Item> {
            lines.into_iter().flat_map(f).collect()
        }
        let words = flat_map(vec![Text::from("a b"), Text::from("c")], |line| {
            line.split(' ')
        });
        assert_eq!(words, ["a", "b", "c"]);
        assert_eq!(
            flat_map(vec![Text::from("a  b")], |line| line.split_whitespace()),
            ["a", "b"]
        );
        assert_eq!(
            flat_map(vec![Text::from("a, b")], |line| line.split(", ")),
            ["a", "b"]
        );
    }

    #[test]
    fn is_found_in_tables_by_str() {
        let table = std::collections::HashMap::from([(Text::from("word"), 1)]);
        assert_eq!(table.get("word"), Some(&1));
        let mut hasher = table.hasher().build_hasher();
        hasher.write(b"other");
        assert_eq!(table.get("other"), None);
    }

    #[test]
    #[should_panic(expected = "not a char boundary")]
    fn slice_panics_within_a_character() {
        let _ = Text::from("é").slice(1..);
    }
}
