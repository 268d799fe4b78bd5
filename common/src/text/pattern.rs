//! What a text can be split by.

use memchr::{memchr, memmem};

/// A separator: a `char`, a `&str` or `&String`, or a function that tells whether a `char` separates. Implemented here alone.
pub trait Pattern: sealed::Search {}

impl<P: sealed::Search> Pattern for P {}

pub(super) mod sealed {
    /// Finds matches.
    pub trait Search {
        /// Start and end of the first match in `text` at or after byte `from`, a character's start or the end.
        fn find(&mut self, text: &str, from: usize) -> Option<(usize, usize)>;
    }
}

use sealed::Search;

impl Search for char {
    #[inline]
    fn find(&mut self, text: &str, from: usize) -> Option<(usize, usize)> {
        if self.is_ascii() {
            let start = from + memchr(*self as u8, &text.as_bytes()[from..])?;
            return Some((start, start + 1));
        }
        let mut utf8 = [0; 4];
        find_str(self.encode_utf8(&mut utf8), text, from)
    }
}

impl Search for &str {
    #[inline]
    fn find(&mut self, text: &str, from: usize) -> Option<(usize, usize)> {
        find_str(self, text, from)
    }
}

impl Search for &String {
    #[inline]
    fn find(&mut self, text: &str, from: usize) -> Option<(usize, usize)> {
        find_str(self, text, from)
    }
}

impl<F: FnMut(char) -> bool> Search for F {
    #[inline]
    fn find(&mut self, text: &str, from: usize) -> Option<(usize, usize)> {
        let (start, found) = text[from..].char_indices().find(|(_, c)| self(*c))?;
        Some((from + start, from + start + found.len_utf8()))
    }
}

#[inline]
fn find_str(needle: &str, text: &str, from: usize) -> Option<(usize, usize)> {
    let rest = &text.as_bytes()[from..];
    let start = match needle.as_bytes() {
        [] => 0,
        [single] => memchr(*single, rest)?,
        longer => memmem::find(rest, longer)?,
    };
    Some((from + start, from + start + needle.len()))
}
