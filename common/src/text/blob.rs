//! Bytes that are shared or inline in the way of a text.

use std::{fmt, ops::Deref};

use hipstr::{HipByt, HipStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BUFFER_HEADER, Text, block};

/// Cheap, owned bytes: up to 23 lie inline, more are a counted slice of their buffer. A record's key or value.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blob(HipByt<'static>);

impl Blob {
    /// Takes over a buffer, to be sliced.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(HipByt::from(bytes))
    }

    /// The part from `start` to `end`; `None` if it is out of bounds.
    pub fn get_slice(&self, start: usize, end: usize) -> Option<Self> {
        self.0.try_slice(start..end).ok().map(Self)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The same bytes in a buffer of their own size, holding on to no larger one.
    #[must_use]
    pub fn detach(self) -> Self {
        if self.0.is_allocated() && self.0.capacity() > self.0.len() {
            return Self(HipByt::from(self.as_slice()));
        }
        self
    }

    /// Bytes on the heap that this blob keeps alive: its whole buffer, even if it is a small slice of it or shares it.
    pub fn heap_size(&self) -> usize {
        if self.0.is_allocated() {
            self.0.capacity() + BUFFER_HEADER
        } else {
            0
        }
    }

    /// The same bytes as a text, without copying more than what lies inline.
    ///
    /// # Errors
    /// The blob itself where it isn't UTF-8.
    pub fn into_text(self) -> Result<Text, Self> {
        match HipStr::from_utf8(self.0) {
            Ok(text) => Ok(Text(text)),
            Err(error) => Err(Self(error.into_bytes())),
        }
    }

    /// The same bytes as a text, with U+FFFD in place of what isn't UTF-8.
    pub fn to_text_lossy(&self) -> Text {
        Text::from(String::from_utf8_lossy(self.as_slice()).into_owned())
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(HipByt::from(bytes))
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}

impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Self::from_vec(text.into_bytes())
    }
}

/// Without copying more than what lies inline.
impl From<Text> for Blob {
    fn from(text: Text) -> Self {
        Self(text.0.into_bytes())
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "b\"{}\"", self.as_slice().escape_ascii())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_slice())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Blob;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Blob, E> {
                Ok(Blob(block::bytes_of(bytes)))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob::from(bytes))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob::from_vec(bytes))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Blob, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(Blob::from_vec(bytes))
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_the_buffer_and_become_texts_without_a_copy() {
        let whole =
            Blob::from_vec(b"a value that is far too long to lie inline, and more".to_vec());
        let part = whole.get_slice(2, 42).unwrap();
        assert!(
            whole
                .as_slice()
                .as_ptr_range()
                .contains(&part.as_slice().as_ptr())
        );
        let address = part.as_slice().as_ptr();
        let text = part.into_text().unwrap();
        assert_eq!(text.as_ptr(), address);
        assert!(whole.get_slice(40, 1_000).is_none());
    }

    #[test]
    fn what_is_not_utf8_comes_back_or_is_replaced() {
        let blob = Blob::from(&b"a\xffb"[..]);
        assert_eq!(blob.to_text_lossy(), "a\u{fffd}b");
        assert_eq!(blob.clone().into_text(), Err(blob));
    }
}
