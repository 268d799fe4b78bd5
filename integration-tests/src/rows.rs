//! Rows that are made from their number alone, so that what a job did to gigabytes of them can be told by arithmetic.

use millstream::common::text::Text;

/// Keys; the row with number `n` has the key `n % KEYS`.
pub const KEYS: u64 = 10_000;
/// Bytes of a row's value.
pub const VALUE_BYTES: usize = 100;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of a row: its number, then digits that look random.
pub fn value(number: u64) -> Text {
    let mut bytes = [0; VALUE_BYTES];
    let mut state = number;
    for (place, byte) in bytes.iter_mut().enumerate() {
        if place % 16 == 0 && place > 0 {
            state = (state ^ (state >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number;
        }
        *byte = DIGITS[(state >> (60 - 4 * (place % 16))) as usize % 16];
    }
    Text::from(String::from_utf8_lossy(&bytes).as_ref())
}

/// How many values there are, what their numbers sum to, and how many of them don't belong to the key or are damaged.
pub fn summarize(key: u64, values: &[Text]) -> (u64, u64, u64) {
    let (mut sum, mut wrong) = (0, 0);
    for found in values {
        let number = found
            .get(..16)
            .and_then(|number| u64::from_str_radix(number, 16).ok());
        match number {
            Some(number) if number % KEYS == key && *found == value(number) => sum += number,
            _ => wrong += 1,
        }
    }
    (values.len() as u64, sum, wrong)
}
