//! Rows that outlive their chunk let go of its buffers: a `Text` may be a slice of a whole block of input.

use std::any::TypeId;

use millstream_common::{codec, failure::Failure, text::INLINE_CAPACITY};
use serde::{Serialize, de::DeserializeOwned};

use crate::task::codec_failure;

/// Whether a value of this type may hold a slice of a larger buffer. Known not to: numbers, `bool`, `char`, `String`.
pub fn may_share<T: 'static>() -> bool {
    let type_id = TypeId::of::<T>();
    let owned = [
        TypeId::of::<()>(),
        TypeId::of::<bool>(),
        TypeId::of::<char>(),
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<u128>(),
        TypeId::of::<usize>(),
        TypeId::of::<i8>(),
        TypeId::of::<i16>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
        TypeId::of::<i128>(),
        TypeId::of::<isize>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
        TypeId::of::<String>(),
    ];
    !owned.contains(&type_id)
}

/// Weighs rows by their encoded size, and detaches them on the way.
pub struct Detacher<T> {
    may_share: bool,
    encoded: Vec<u8>,
    row: std::marker::PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned + 'static> Detacher<T> {
    /// One for rows that hold slices only if `may_share`.
    pub fn new(may_share: bool) -> Self {
        Self {
            may_share,
            encoded: Vec::new(),
            row: std::marker::PhantomData,
        }
    }

    /// The row without slices of larger buffers, and its encoded size. What is encoded in no more bytes than a `Text` holds inline has none.
    ///
    /// # Errors
    /// When the row can't be encoded or read back.
    pub fn detach(&mut self, row: T) -> Result<(T, usize), Failure> {
        self.encoded.clear();
        let size =
            codec::encode_into(&row, &mut self.encoded).map_err(|error| codec_failure(&error))?;
        if !self.may_share || size <= INLINE_CAPACITY {
            return Ok((row, size));
        }
        // Outside of a block's scope, decoding copies.
        let (detached, _) = codec::decode(&self.encoded).map_err(|error| codec_failure(&error))?;
        Ok((detached, size))
    }
}
