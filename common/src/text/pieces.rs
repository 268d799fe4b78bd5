//! Iterators over the pieces of a text. Each owns its text, so that it can leave the closure that made it.

use std::iter::FusedIterator;

use super::Text;
use super::pattern::Pattern;

/// Pieces between separators: see [`Text::split`].
#[derive(Debug, Clone)]
pub struct Split<P> {
    text: Text,
    separator: P,
    /// Where the next piece starts.
    start: usize,
    /// Where the search for the next match starts; beyond the text's end if there can be no more.
    search: usize,
    done: bool,
}

impl<P: Pattern> Split<P> {
    #[inline]
    pub(super) fn new(text: Text, separator: P) -> Split<P> {
        Split {
            text,
            separator,
            start: 0,
            search: 0,
            done: false,
        }
    }
}

impl<P: Pattern> Iterator for Split<P> {
    type Item = Text;

    #[inline]
    fn next(&mut self) -> Option<Text> {
        if self.done {
            return None;
        }
        let whole = self.text.as_str();
        let found = if self.search <= whole.len() {
            self.separator.find(whole, self.search)
        } else {
            None
        };
        let Some((match_start, match_end)) = found else {
            self.done = true;
            return Some(self.text.part_at(self.start, whole.len()));
        };
        let piece = self.text.part_at(self.start, match_start);
        self.start = match_end;
        self.search = search_after(whole, match_start, match_end);
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self.done {
            true => (0, Some(0)),
            // An empty separator matches at both ends, too.
            false => (1, Some(self.text.len() - self.start + 2)),
        }
    }

    #[inline]
    fn fold<B, F: FnMut(B, Text) -> B>(self, init: B, mut f: F) -> B {
        if self.done {
            return init;
        }
        let Split {
            text,
            mut separator,
            mut start,
            mut search,
            done: _,
        } = self;
        let whole = text.as_str();
        let mut folded = init;
        while search <= whole.len()
            && let Some((match_start, match_end)) = separator.find(whole, search)
        {
            folded = f(folded, text.part_at(start, match_start));
            start = match_end;
            search = search_after(whole, match_start, match_end);
        }
        f(folded, text.part_at(start, whole.len()))
    }
}

/// Where the search goes on after a match. An empty separator matches before each character and at the end, once each.
#[inline(always)]
fn search_after(text: &str, match_start: usize, match_end: usize) -> usize {
    if match_end > match_start {
        match_end
    } else {
        after_next_char(text, match_end)
    }
}

fn after_next_char(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

impl<P: Pattern> FusedIterator for Split<P> {}

/// Words between white space: see [`Text::split_whitespace`].
#[derive(Debug, Clone)]
pub struct SplitWhitespace {
    text: Text,
    at: usize,
}

impl SplitWhitespace {
    #[inline]
    pub(super) fn new(text: Text) -> SplitWhitespace {
        SplitWhitespace { text, at: 0 }
    }
}

impl Iterator for SplitWhitespace {
    type Item = Text;

    #[inline]
    fn next(&mut self) -> Option<Text> {
        let whole = self.text.as_str();
        let word = whole[self.at..].split_whitespace().next()?;
        let (start, end) = place_in(whole, word);
        self.at = end;
        Some(self.text.part_at(start, end))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some((self.text.len() - self.at).div_ceil(2)))
    }

    #[inline]
    fn fold<B, F: FnMut(B, Text) -> B>(self, init: B, mut f: F) -> B {
        let whole = self.text.as_str();
        let words = whole[self.at..].split_whitespace();
        words.fold(init, |folded, word| {
            let (start, end) = place_in(whole, word);
            f(folded, self.text.part_at(start, end))
        })
    }
}

/// Where a part of a text begins and ends in it.
#[inline(always)]
fn place_in(whole: &str, part: &str) -> (usize, usize) {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    (start, start + part.len())
}

impl FusedIterator for SplitWhitespace {}

/// Lines without their ends: see [`Text::lines`].
#[derive(Debug, Clone)]
pub struct Lines {
    text: Text,
    at: usize,
}

impl Lines {
    #[inline]
    pub(super) fn new(text: Text) -> Lines {
        Lines { text, at: 0 }
    }
}

impl Iterator for Lines {
    type Item = Text;

    #[inline]
    fn next(&mut self) -> Option<Text> {
        let rest = &self.text.as_str()[self.at..];
        if rest.is_empty() {
            return None;
        }
        let Some(end) = memchr::memchr(b'\n', rest.as_bytes()) else {
            self.at += rest.len();
            return Some(self.text.part(rest));
        };
        self.at += end + 1;
        let line = &rest[..end];
        Some(self.text.part(line.strip_suffix('\r').unwrap_or(line)))
    }
}

impl FusedIterator for Lines {}
