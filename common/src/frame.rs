//! Frames: how blocks of rows lie in files and travel, with what is needed to find any damage.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..3 | `MSB` |
//! | 3 | version of this layout, 1 |
//! | 4 | codec of the rows ([`codec::CODEC_ID`]) |
//! | 5 | compression: 0 none, 1 LZ4 block |
//! | 6..8 | 0 |
//! | 8..12 | length of the rows' bytes |
//! | 12..16 | length of the content, after compression |
//! | 16..20 | number of rows |
//! | 20..28 | checksum: xxh3-64 of the content, seeded with the xxh3-64 of bytes 0..20 |
//! | 28.. | the content |
//!
//! Numbers are little endian. A frame is checked whole before anything in it is believed: what is damaged, cut or
//! foreign is an [`Error`]. Memory is taken as content arrives, never on the word of a header alone.
//!
//! The checksum of a frame depends on compression and on where the frame was cut. [`ContentHash`] doesn't: it
//! tells whether two runs wrote the same rows in the same order.

mod content_hash;

pub use content_hash::{ContentChecksum, ContentHash};

use std::io::{self, Read};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::codec::{self, RowReader};

/// Bytes before a frame's content.
pub const HEADER_BYTES: usize = 28;

/// The most bytes that a frame's rows may have: 512 MiB, more than any single row.
pub const MAX_FRAME_BYTES: usize = 512 << 20;

const MAGIC: [u8; 3] = *b"MSB";
const VERSION: u8 = 1;
const CHECKED_HEADER_BYTES: usize = 20;

/// Shorter rows are not worth a compression.
const MIN_COMPRESSED_BYTES: usize = 512;

/// LZ4 can't shrink further than this.
const MAX_RATIO: usize = 255;

/// How a frame's content may be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4, where it saves at least an eighth.
    #[default]
    Lz4,
}

impl Compression {
    fn id(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
        }
    }
}

/// What is wrong with a frame, and where it begins.
#[derive(Debug, thiserror::Error)]
#[error("frame at byte {at}: {problem}")]
pub struct Error {
    /// Where the frame begins in its source.
    pub at: u64,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What can be wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The source ends within the frame.
    #[error("it is cut after {had} of {wanted} bytes")]
    Truncated {
        /// Bytes that the header promises, or the header's own.
        wanted: usize,
        /// Bytes that are there.
        had: usize,
    },
    /// It doesn't begin as a frame does.
    #[error("it is no frame, as it begins with {0:?}")]
    NotAFrame([u8; 3]),
    /// Written by another version of Millstream.
    #[error("it has layout version {0}, this build reads version {VERSION}")]
    Version(u8),
    /// The header or the content was altered.
    #[error("its checksum is wrong: the content was altered on its way or on disk")]
    Checksum,
    /// Its header is one that no writer makes, though its checksum is right.
    #[error("its header makes no sense: {0}")]
    Header(&'static str),
    /// The rows were written by a codec that this build doesn't have.
    #[error("its rows have codec {0}, this build reads codec {known}", known = codec::CODEC_ID)]
    Codec(u8),
    /// It is larger than the reader or the format allows.
    #[error("it has {len} bytes, the limit is {limit}")]
    TooLarge {
        /// Its length, stored or decompressed.
        len: usize,
        /// The most bytes allowed.
        limit: usize,
    },
    /// The content can't be decompressed, though its checksum is right.
    #[error("its content can't be decompressed")]
    Decompress(#[source] lz4_flex::block::DecompressError),
    /// The source could not be read.
    #[error("it could not be read")]
    Io(#[source] io::Error),
}

/// A block of rows out of its frame, checked and decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The codec of the rows.
    pub codec: u8,
    /// Number of rows.
    pub rows: u32,
    /// The rows' bytes.
    pub payload: Bytes,
}

impl Frame {
    /// Appends a frame with `rows` rows, whose bytes are `payload`, to `out`. An error above [`MAX_FRAME_BYTES`].
    pub fn encode(
        payload: &[u8],
        rows: u32,
        compression: Compression,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let at = out.len();
        if payload.len() > MAX_FRAME_BYTES {
            let problem = Problem::TooLarge {
                len: payload.len(),
                limit: MAX_FRAME_BYTES,
            };
            return Err(Error {
                at: at as u64,
                problem,
            });
        }
        out.resize(at + HEADER_BYTES, 0);
        let compressed = compression == Compression::Lz4 && append_compressed(payload, out);
        if !compressed {
            out.extend_from_slice(payload);
        }
        let stored = out.len() - at - HEADER_BYTES;
        let used = if compressed {
            Compression::Lz4
        } else {
            Compression::None
        };
        let (header, content) = out[at..].split_at_mut(HEADER_BYTES);
        header[..3].copy_from_slice(&MAGIC);
        header[3] = VERSION;
        header[4] = codec::CODEC_ID;
        header[5] = used.id();
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(stored as u32).to_le_bytes());
        header[16..20].copy_from_slice(&rows.to_le_bytes());
        let sum = checksum(header, content);
        header[CHECKED_HEADER_BYTES..].copy_from_slice(&sum.to_le_bytes());
        Ok(())
    }

    /// Takes one frame from the start of `bytes`; returns it and how many bytes it took. `limit` bounds its length,
    /// stored and decompressed. Uncompressed content is shared, not copied.
    pub fn decode(bytes: &Bytes, limit: usize) -> Result<(Frame, usize), Error> {
        decode(bytes, limit).map_err(|problem| Error { at: 0, problem })
    }

    /// Checks the frame at the start of `bytes` without decompressing it; returns how many bytes it takes.
    pub fn check(bytes: &[u8], limit: usize) -> Result<usize, Error> {
        check(bytes, limit).map_err(|problem| Error { at: 0, problem })
    }

    /// A reader of the rows. An error if they have a codec that this build doesn't know.
    pub fn into_rows<T: DeserializeOwned>(self) -> Result<RowReader<T>, Problem> {
        if self.codec != codec::CODEC_ID {
            return Err(Problem::Codec(self.codec));
        }
        Ok(RowReader::new(self.payload, self.rows))
    }
}

fn append_compressed(payload: &[u8], out: &mut Vec<u8>) -> bool {
    if payload.len() < MIN_COMPRESSED_BYTES {
        return false;
    }
    let start = out.len();
    out.resize(
        start + lz4_flex::block::get_maximum_output_size(payload.len()),
        0,
    );
    let stored = match lz4_flex::block::compress_into(payload, &mut out[start..]) {
        Ok(stored) if stored <= payload.len() / 8 * 7 => stored,
        _ => 0,
    };
    out.truncate(start + stored);
    stored > 0
}

fn checksum(header: &[u8], content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, xxh3_64(&header[..CHECKED_HEADER_BYTES]))
}

/// A header's fields; only their lengths are used before the checksum was found right.
struct Header {
    bytes: [u8; HEADER_BYTES],
}

impl Header {
    fn parse(bytes: &[u8], limit: usize) -> Result<Header, Problem> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Problem::Truncated {
                wanted: HEADER_BYTES,
                had: bytes.len(),
            });
        };
        let magic = [bytes[0], bytes[1], bytes[2]];
        if magic != MAGIC {
            return Err(Problem::NotAFrame(magic));
        }
        if bytes[3] != VERSION {
            return Err(Problem::Version(bytes[3]));
        }
        let header = Header { bytes: *bytes };
        let len = header.raw_len().max(header.stored_len());
        if len > limit {
            return Err(Problem::TooLarge { len, limit });
        }
        Ok(header)
    }

    fn number(&self, at: usize) -> u32 {
        let b = &self.bytes;
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    fn raw_len(&self) -> usize {
        self.number(8) as usize
    }

    fn stored_len(&self) -> usize {
        self.number(12) as usize
    }

    fn rows(&self) -> u32 {
        self.number(16)
    }

    fn checksum(&self) -> u64 {
        u64::from(self.number(20)) | u64::from(self.number(24)) << 32
    }

    /// The frame, given its whole content.
    fn open(&self, content: Bytes) -> Result<Frame, Problem> {
        if checksum(&self.bytes, &content) != self.checksum() {
            return Err(Problem::Checksum);
        }
        if self.bytes[6..8] != [0, 0] {
            return Err(Problem::Header("its reserved bytes are not 0"));
        }
        let payload = match self.bytes[5] {
            0 if self.raw_len() == self.stored_len() => content,
            0 => {
                return Err(Problem::Header(
                    "its two lengths differ without compression",
                ));
            }
            1 => decompress(&content, self.raw_len())?,
            _ => return Err(Problem::Header("its compression is unknown")),
        };
        Ok(Frame {
            codec: self.bytes[4],
            rows: self.rows(),
            payload,
        })
    }
}

fn decompress(content: &[u8], raw_len: usize) -> Result<Bytes, Problem> {
    if raw_len > content.len().saturating_mul(MAX_RATIO) {
        return Err(Problem::Header("no compression shrinks that far"));
    }
    let mut raw = vec![0; raw_len];
    let len = lz4_flex::block::decompress_into(content, &mut raw).map_err(Problem::Decompress)?;
    if len != raw_len {
        return Err(Problem::Header("its rows are shorter than it says"));
    }
    Ok(Bytes::from(raw))
}

fn decode(bytes: &Bytes, limit: usize) -> Result<(Frame, usize), Problem> {
    let header = Header::parse(bytes, limit)?;
    let wanted = HEADER_BYTES + header.stored_len();
    if bytes.len() < wanted {
        return Err(Problem::Truncated {
            wanted,
            had: bytes.len(),
        });
    }
    let frame = header.open(bytes.slice(HEADER_BYTES..wanted))?;
    Ok((frame, wanted))
}

fn check(bytes: &[u8], limit: usize) -> Result<usize, Problem> {
    let header = Header::parse(bytes, limit)?;
    let wanted = HEADER_BYTES + header.stored_len();
    let Some(content) = bytes.get(HEADER_BYTES..wanted) else {
        return Err(Problem::Truncated {
            wanted,
            had: bytes.len(),
        });
    };
    if checksum(&header.bytes, content) != header.checksum() {
        return Err(Problem::Checksum);
    }
    Ok(wanted)
}

/// Where a [`FrameReader`] takes its bytes from.
pub trait FrameSource {
    /// The next frame and its whole length; `None` at the end.
    fn next_frame(&mut self, limit: usize) -> Result<Option<(Frame, usize)>, Problem>;
}

/// Shares what is not compressed.
impl FrameSource for Bytes {
    fn next_frame(&mut self, limit: usize) -> Result<Option<(Frame, usize)>, Problem> {
        if self.is_empty() {
            return Ok(None);
        }
        let (frame, used) = decode(self, limit)?;
        *self = self.slice(used..);
        Ok(Some((frame, used)))
    }
}

/// A source that is read as it goes: a file, for one. Give it a buffer of its own.
#[derive(Debug)]
pub struct Reading<R>(pub R);

impl<R: Read> FrameSource for Reading<R> {
    fn next_frame(&mut self, limit: usize) -> Result<Option<(Frame, usize)>, Problem> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        self.0
            .by_ref()
            .take(HEADER_BYTES as u64)
            .read_to_end(&mut header)
            .map_err(Problem::Io)?;
        if header.is_empty() {
            return Ok(None);
        }
        let header = Header::parse(&header, limit)?;
        let stored = header.stored_len();
        // The length is not yet known to be true: reserve little, and grow with what comes.
        let mut content = Vec::with_capacity(stored.min(1 << 20));
        self.0
            .by_ref()
            .take(stored as u64)
            .read_to_end(&mut content)
            .map_err(Problem::Io)?;
        let (wanted, had) = (HEADER_BYTES + stored, HEADER_BYTES + content.len());
        if had < wanted {
            return Err(Problem::Truncated { wanted, had });
        }
        Ok(Some((header.open(Bytes::from(content))?, wanted)))
    }
}

/// Iterates over frames that lie one after the other. After an error nothing more comes.
#[derive(Debug)]
pub struct FrameReader<S> {
    source: S,
    limit: usize,
    at: u64,
    done: bool,
}

impl<S: FrameSource> FrameReader<S> {
    /// A reader of frames of at most `limit` bytes each, stored and decompressed.
    pub fn new(source: S, limit: usize) -> FrameReader<S> {
        FrameReader {
            source,
            limit,
            at: 0,
            done: false,
        }
    }

    /// How many bytes were read of whole frames.
    pub fn position(&self) -> u64 {
        self.at
    }
}

impl<S: FrameSource> Iterator for FrameReader<S> {
    type Item = Result<Frame, Error>;

    fn next(&mut self) -> Option<Result<Frame, Error>> {
        if self.done {
            return None;
        }
        match self.source.next_frame(self.limit) {
            Ok(Some((frame, used))) => {
                self.at += used as u64;
                Some(Ok(frame))
            }
            Ok(None) => {
                self.done = true;
                None
            }
            Err(problem) => {
                self.done = true;
                Some(Err(Error {
                    at: self.at,
                    problem,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
