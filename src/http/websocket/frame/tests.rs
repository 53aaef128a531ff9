use proptest::prelude::*;

use super::*;

/// A client's frame: masked, the length in its shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0xff);
            bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn read_all(reader: &mut FrameReader, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    let length = reader.read(&mut input);
    input.truncate(length);
    input
}

fn violation(input: &[u8]) -> Option<Violation> {
    let mut reader = FrameReader::default();
    read_all(&mut reader, input);
    match reader.end() {
        Some(End::Violation(violation)) => Some(violation),
        _ => None,
    }
}

#[test]
fn the_example_of_the_rfc_is_read() {
    // RFC 6455 §5.7, a masked "Hello", as binary.
    let input = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read_all(&mut FrameReader::default(), &input), b"Hello");
}

#[test]
fn every_rule_for_a_clients_frames_has_its_violation() {
    for (input, expected) in [
        (frame(0x81, b"hi"), Violation::Text),
        (vec![0x82, 0x01, b'x'], Violation::Unmasked),
        (frame(0xc2, b"x"), Violation::ReservedBits),
        (frame(0xa2, b"x"), Violation::ReservedBits),
        (frame(0x92, b"x"), Violation::ReservedBits),
        (frame(0x83, b"x"), Violation::UnknownOpcode),
        (frame(0x8b, b"x"), Violation::UnknownOpcode),
        (frame(0x09, b"x"), Violation::FragmentedControl),
        (frame(0x89, &[0; 126]), Violation::LongControl),
        (frame(0x80, b"x"), Violation::LoneContinuation),
        (
            [frame(0x02, b"x"), frame(0x82, b"y")].concat(),
            Violation::UnfinishedMessage,
        ),
        (
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
            Violation::ImpossibleLength,
        ),
        (frame(0x88, &[3]), Violation::BadClose),
        (frame(0x88, &1005_u16.to_be_bytes()), Violation::BadClose),
        (frame(0x88, &999_u16.to_be_bytes()), Violation::BadClose),
    ] {
        assert_eq!(violation(&input), Some(expected), "{input:02x?}");
    }
    assert_eq!(violation(&frame(0x82, b"x")), None);
}

#[test]
fn data_before_a_violation_is_still_delivered() {
    let mut reader = FrameReader::default();
    let input = [frame(0x82, b"good"), frame(0x81, b"bad"), frame(0x82, b"lost")].concat();
    assert_eq!(read_all(&mut reader, &input), b"good");
    assert_eq!(reader.end(), Some(End::Violation(Violation::Text)));
    assert_eq!(read_all(&mut reader, &frame(0x82, b"more")), b"");
}

#[test]
fn a_ping_between_fragments_is_noticed_and_costs_no_data() {
    let mut reader = FrameReader::default();
    let input = [
        frame(0x02, b"ab"),
        frame(0x89, b"1"),
        frame(0x89, b"2"),
        frame(0x80, b"c"),
    ]
    .concat();
    assert_eq!(read_all(&mut reader, &input), b"abc");
    assert_eq!(reader.take_ping().as_deref(), Some(&b"2"[..]));
    assert_eq!(reader.take_ping(), None);
}

#[test]
fn code_and_reason_of_a_close_are_read() {
    for (payload, code, reason) in [
        (&b""[..], None, ""),
        (b"\x03\xe8", Some(1000), ""),
        (b"\x03\xf3oops", Some(1011), "oops"),
        (b"\x0f\xa0\xff", Some(4000), "\u{fffd}"),
    ] {
        let mut reader = FrameReader::default();
        read_all(&mut reader, &frame(0x88, payload));
        assert_eq!(
            reader.end(),
            Some(End::Closed {
                code,
                reason: reason.to_owned()
            })
        );
    }
}

#[test]
fn a_border_is_known() {
    let mut reader = FrameReader::default();
    assert!(reader.at_border());
    let input = frame(0x82, b"abc");
    for cut in 1..input.len() {
        let mut reader = FrameReader::default();
        read_all(&mut reader, &input[..cut]);
        assert!(!reader.at_border(), "after {cut} bytes");
    }
    read_all(&mut reader, &input);
    assert!(reader.at_border());
}

#[test]
fn the_header_of_a_reply_has_the_shortest_form() {
    for (length, header) in [
        (1, &[0x82, 1][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (32 * 1024, &[0x82, 126, 0x80, 0]),
    ] {
        assert_eq!(BinaryHeader::new(length).as_bytes(), header);
    }
}

#[test]
fn a_long_close_reason_is_cut_between_characters() {
    let mut out = BytesMut::new();
    push_close(&mut out, Some(1011), &"ä".repeat(100));
    // 123 bytes are left for the reason; 61 characters of two bytes fit.
    assert_eq!(out[..4], [0x88, 124, 0x03, 0xf3]);
    assert_eq!(out[4..], *"ä".repeat(61).as_bytes());
    out.clear();
    push_close(&mut out, None, "");
    assert_eq!(out[..], [0x88, 0]);
}

proptest! {
    #[test]
    fn wire_102_payload_is_the_same_however_frames_and_reads_are_cut(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
        cuts in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        // One fragmented message with a ping inside, then each part as a message of its own.
        let mut wire = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let first = if index == 0 { 0x02 } else { 0x00 };
            let last = if index + 1 == parts.len() { 0x80 } else { 0 };
            wire.extend(frame(first | last, part));
            wire.extend(frame(0x89, b"ping"));
        }
        for part in &parts {
            wire.extend(frame(0x82, part));
        }
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        let mut rest = &wire[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            read.extend(read_all(&mut reader, now));
            rest = later;
        }
        prop_assert_eq!(read, [parts.concat(), parts.concat()].concat());
        prop_assert!(reader.at_border() && reader.end().is_none());
        // However they are cut, and each told once.
        let told = [reader.take_frames(), reader.take_frames()];
        prop_assert_eq!(told, [u32::try_from(3 * parts.len()).unwrap(), 0]);
    }

    #[test]
    fn no_input_makes_the_reader_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = FrameReader::default();
        let length = read_all(&mut reader, &input).len();
        prop_assert!(length <= input.len());
    }
}
