//! A block of encoded rows whose long texts can be decoded as slices of it.

use bytes::Bytes;
use hipstr::{HipByt, HipStr};
use std::cell::RefCell;

use super::{INLINE_CAPACITY, Text};

type Buffer = HipByt<'static>;

thread_local! {
    /// The block that this thread decodes from.
    static CURRENT: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

/// The bytes of a block. Texts that are decoded from it within [`Block::scope`] share its buffer.
#[derive(Debug, Clone)]
pub struct Block(Buffer);

impl Block {
    /// Takes over the buffer of `bytes` if nothing else holds it, else copies.
    pub fn new(bytes: Bytes) -> Block {
        Block(Buffer::from(Vec::from(bytes)))
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Runs `decode` with this block as the thread's current one.
    pub fn scope<R>(&self, decode: impl FnOnce() -> R) -> R {
        let _restore = Restore(CURRENT.replace(Some(self.0.clone())));
        decode()
    }
}

/// Puts the outer block back, also when decoding panics.
struct Restore(Option<Buffer>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The part of the current block that `part` lies in, if it does.
#[inline]
fn shared(part: &[u8]) -> Option<Buffer> {
    CURRENT.with_borrow(|block| block.as_ref().and_then(|block| block.try_slice_ref(part)))
}

/// The text of `part`: a slice of the current block where it lies in that, else a copy.
#[inline]
pub(super) fn text_of(part: &str) -> Text {
    if part.len() <= INLINE_CAPACITY {
        return Text(HipStr::from(part));
    }
    match shared(part.as_bytes()).map(HipStr::from_utf8) {
        Some(Ok(text)) => Text(text),
        _ => Text(HipStr::from(part)),
    }
}

/// The bytes of `part`: a slice of the current block where they lie in that, else a copy.
#[inline]
pub(super) fn bytes_of(part: &[u8]) -> Buffer {
    if part.len() <= INLINE_CAPACITY {
        return Buffer::from(part);
    }
    shared(part).unwrap_or_else(|| Buffer::from(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{RowReader, RowWriter};
    use crate::text::Blob;

    #[test]
    fn long_texts_are_slices_of_the_block() {
        let long = Text::from("a text that is too long to lie inline");
        let mut writer = RowWriter::new();
        writer.push(&(1u8, &long)).unwrap();
        writer.push(&(2u8, &Text::from("short"))).unwrap();
        let (bytes, rows) = writer.take();
        let buffer = bytes.as_ptr_range();
        let mut out = Vec::new();
        let mut reader = RowReader::<(u8, Text)>::new(Bytes::from(bytes), rows);
        reader.read_chunk(&mut out, 10).unwrap();
        assert_eq!(out, [(1, long), (2, Text::from("short"))]);
        assert!(buffer.contains(&out[0].1.as_ptr()));
        assert!(!buffer.contains(&out[1].1.as_ptr()));
        drop(reader);
        assert_eq!(out[0].1, "a text that is too long to lie inline");
        assert!(CURRENT.with_borrow(Option::is_none));
    }

    #[test]
    fn long_blobs_are_slices_of_the_block_until_detached() {
        let long = Blob::from(&[7u8; 1000][..]);
        let mut writer = RowWriter::new();
        writer.push(&long).unwrap();
        writer.push(&Blob::from(&[8u8; 40][..])).unwrap();
        let (bytes, rows) = writer.take();
        let buffer = bytes.as_ptr_range();
        let mut reader = RowReader::<Blob>::new(Bytes::from(bytes), rows);
        assert_eq!(reader.next(), Some(Ok(long)));
        let small = reader.next().unwrap().unwrap();
        assert!(buffer.contains(&small.as_ptr()));
        assert!(small.heap_size() >= 1040);
        let own = small.clone().detach();
        assert!(!buffer.contains(&own.as_ptr()));
        assert!((40..100).contains(&own.heap_size()));
        assert_eq!(own, small);
    }

    #[test]
    fn a_text_from_elsewhere_is_copied() {
        let block = Block::new(Bytes::from(vec![b'x'; 100]));
        let other = "a text that is too long to lie inline".to_owned();
        let text = block.scope(|| text_of(&other));
        assert_eq!(text, other);
        assert_ne!(text.as_ptr(), other.as_ptr());
    }
}
