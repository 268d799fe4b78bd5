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
            let start = from + find_byte(*self as u8, &text.as_bytes()[from..])?;
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

/// Where the byte is first in a text. What lies near, such as the end of a word, is found sixteen bytes at a time without a call; memchr's
/// vectors pay off later only.
#[inline]
pub fn find_byte(byte: u8, text: &[u8]) -> Option<usize> {
    const NEAR: usize = 16;
    const LOW: u128 = u128::from_ne_bytes([0x01; NEAR]);
    const HIGH: u128 = u128::from_ne_bytes([0x80; NEAR]);
    let Some((near, rest)) = text.split_first_chunk::<NEAR>() else {
        return text.iter().position(|other| *other == byte);
    };
    let zero_where_equal = u128::from_le_bytes(*near) ^ u128::from_ne_bytes([byte; NEAR]);
    // The lowest bit of this is in the first zero byte: "Determine if a word has a zero byte", Bit Twiddling Hacks, Anderson.
    let found = zero_where_equal.wrapping_sub(LOW) & !zero_where_equal & HIGH;
    if found != 0 {
        return Some(found.trailing_zeros() as usize / 8);
    }
    Some(NEAR + memchr(byte, rest)?)
}

#[inline]
fn find_str(needle: &str, text: &str, from: usize) -> Option<(usize, usize)> {
    let rest = &text.as_bytes()[from..];
    let start = match needle.as_bytes() {
        [] => 0,
        [single] => find_byte(*single, rest)?,
        longer => memmem::find(rest, longer)?,
    };
    Some((from + start, from + start + needle.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::find_byte;

    proptest! {
        #[test]
        fn the_first_is_found(text in prop::collection::vec(0u8..4, 0..40), shift in any::<u8>(), byte in 0u8..4) {
            // Neighbouring values, of which some differ in the highest bit, where borrows could go astray.
            let shifted: Vec<u8> = text.iter().map(|other| other.wrapping_add(shift)).collect();
            let wanted = byte.wrapping_add(shift);
            let expected = shifted.iter().position(|other| *other == wanted);
            prop_assert_eq!(find_byte(wanted, &shifted), expected);
        }
    }
}
