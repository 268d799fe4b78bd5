use super::*;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn encoded(payload: &[u8], rows: u32, compression: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    Frame::encode(payload, rows, compression, &mut out).unwrap();
    out
}

fn read_both(bytes: &[u8], limit: usize) -> Vec<Result<Frame, String>> {
    let shared: Vec<_> = FrameReader::new(Bytes::copy_from_slice(bytes), limit).collect();
    let read: Vec<_> = FrameReader::new(Reading(bytes), limit).collect();
    let plain = |frames: Vec<Result<Frame, Error>>| -> Vec<Result<Frame, String>> {
        frames
            .into_iter()
            .map(|frame| frame.map_err(|error| error.to_string()))
            .collect()
    };
    let shared = plain(shared);
    assert_eq!(shared, plain(read), "both sources must see the same");
    shared
}

#[test]
fn golden_frame() {
    let bytes = encoded(&[2, b'H', b'i'], 1, Compression::Lz4);
    assert_eq!(
        &bytes[..20],
        b"MSB\x01\x01\0\0\0\x03\0\0\0\x03\0\0\0\x01\0\0\0"
    );
    assert_eq!(
        u64::from_le_bytes(bytes[20..28].try_into().unwrap()),
        GOLDEN_SUM
    );
    assert_eq!(&bytes[28..], [2, b'H', b'i']);
}

const GOLDEN_SUM: u64 = 11_729_282_260_772_730_194;

#[test]
fn compresses_where_it_pays() {
    let same = vec![7; 10_000];
    assert!(encoded(&same, 1, Compression::Lz4).len() < 200);
    assert_eq!(encoded(&same, 1, Compression::None).len(), 10_028);
    assert_eq!(encoded(&same[..100], 1, Compression::Lz4).len(), 128);
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(10_000)
    .collect();
    assert_eq!(encoded(&noise, 1, Compression::Lz4).len(), 10_028);
}

#[test]
fn limits_hold() {
    let bytes = encoded(&[7; 10_000], 1, Compression::Lz4);
    let frames = read_both(&bytes, 9_999);
    assert_eq!(
        frames,
        [Err(
            "frame at byte 0: it has 10000 bytes, the limit is 9999".to_owned()
        )]
    );
    assert!(read_both(&bytes, 10_000)[0].is_ok());
}

#[test]
fn a_header_that_promises_too_much_takes_no_memory() {
    let mut bytes = encoded(b"some rows", 1, Compression::None);
    bytes[8..16].copy_from_slice(&[0xff; 8]);
    let frames = read_both(&bytes, u32::MAX as usize);
    assert!(
        frames[0].as_ref().unwrap_err().contains("cut after 37"),
        "{frames:?}"
    );
}

#[test]
fn rows_of_another_codec_are_refused() {
    let frame = Frame {
        codec: 9,
        rows: 1,
        payload: Bytes::from_static(&[1]),
    };
    assert!(matches!(frame.into_rows::<u8>(), Err(Problem::Codec(9))));
}

#[test]
fn what_is_no_frame_is_named() {
    assert!(
        read_both(b"<html>, which is longer than a header", LIMIT)[0]
            .as_ref()
            .unwrap_err()
            .contains("no frame")
    );
    let mut newer = encoded(b"", 0, Compression::None);
    newer[3] = 2;
    assert!(
        read_both(&newer, LIMIT)[0]
            .as_ref()
            .unwrap_err()
            .contains("layout version 2")
    );
    assert_eq!(read_both(b"", LIMIT), []);
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2_000),
        proptest::collection::vec(0u8..3, 0..2_000),
        (any::<u8>(), 0usize..5_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4)]
}

proptest! {
    #[test]
    fn frames_come_back(blocks in proptest::collection::vec((payload(), any::<u32>(), compression()), 0..5)) {
        let mut bytes = Vec::new();
        for (payload, rows, compression) in &blocks {
            Frame::encode(payload, *rows, *compression, &mut bytes).unwrap();
        }
        let frames: Result<Vec<Frame>, String> = read_both(&bytes, LIMIT).into_iter().collect();
        let expected: Vec<Frame> = blocks
            .iter()
            .map(|(payload, rows, _)| Frame { codec: codec::CODEC_ID, rows: *rows, payload: Bytes::copy_from_slice(payload) })
            .collect();
        prop_assert_eq!(frames.unwrap(), expected);
    }

    #[test]
    fn any_flipped_bit_is_found(payload in payload(), compression in compression(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encoded(&payload, 3, compression);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let frames = read_both(&bytes, LIMIT);
        prop_assert!(frames.iter().any(Result::is_err), "{:?}", frames);
        prop_assert!(!frames.iter().any(Result::is_ok));
    }

    #[test]
    fn any_cut_is_found(payload in payload(), compression in compression(), at in any::<prop::sample::Index>()) {
        let whole = encoded(&payload, 3, compression);
        let mut bytes = whole.clone();
        bytes.extend_from_slice(&whole[..at.index(whole.len() - 1) + 1]);
        if bytes.len() < 2 * whole.len() {
            let frames = read_both(&bytes, LIMIT);
            prop_assert_eq!(frames.len(), 2);
            prop_assert!(frames[0].is_ok());
            let error = frames[1].as_ref().unwrap_err();
            let place = format!("frame at byte {}: it is cut", whole.len());
            prop_assert!(error.starts_with(&place), "{}", error);
        }
    }

    #[test]
    fn a_check_finds_what_decoding_finds(payload in payload(), compression in compression(), at in any::<prop::sample::Index>(), flip in 0u8..=255) {
        let mut bytes = encoded(&payload, 3, compression);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let decoded = Frame::decode(&Bytes::from(bytes.clone()), LIMIT).map(|(_, used)| used);
        let checked = Frame::check(&bytes, LIMIT);
        prop_assert_eq!(checked.map_err(|error| error.to_string()), decoded.map_err(|error| error.to_string()));
    }

    #[test]
    fn random_bytes_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 1..300), with_magic in any::<bool>(), small in any::<bool>()) {
        if with_magic && bytes.len() > HEADER_BYTES {
            bytes[..4].copy_from_slice(b"MSB\x01");
            if small {
                bytes[9..12].fill(0);
                bytes[13..16].fill(0);
            }
        }
        prop_assert!(read_both(&bytes, usize::MAX).last().unwrap().is_err());
    }

    /// The writer's checksum right, everything else as it falls: still no panic and no large buffer.
    #[test]
    fn a_right_checksum_over_nonsense_is_refused(content in proptest::collection::vec(any::<u8>(), 0..100), compression in any::<u8>(), raw_len in any::<u32>()) {
        let mut bytes = encoded(&content, 1, Compression::None);
        bytes[5] = compression;
        bytes[8..12].copy_from_slice(&raw_len.to_le_bytes());
        let sum = checksum(&bytes[..HEADER_BYTES], &content);
        bytes[20..28].copy_from_slice(&sum.to_le_bytes());
        let frames = read_both(&bytes, usize::MAX);
        if let Ok(frame) = &frames[0] {
            prop_assert!(frame.payload.len() <= 255 * content.len());
        }
    }
}
