//! The rules of packets, on bytes.

use proptest::prelude::*;

use super::*;

/// The packets that came, as text, and the broken rule.
type Verdict = (Vec<String>, Option<ProtocolError>);

/// Reads all of `bytes`, cut into chunks after each of `cuts`.
fn read_chopped(bytes: &[u8], cuts: &[usize]) -> Verdict {
    let mut reader = PacketReader::new();
    let mut packets = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        reader.push(Bytes::copy_from_slice(&bytes[start..end]));
        start = end;
        loop {
            match reader.next() {
                Ok(Some(packet)) => packets.push(show(&packet)),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

fn read(bytes: &[u8]) -> Verdict {
    read_chopped(bytes, &[])
}

fn show(packet: &Packet) -> String {
    let Packet {
        id,
        kind,
        control,
        data,
    } = packet;
    let control = if *control { " control" } else { "" };
    match data.len() {
        0..100 => format!("{kind}{control} {id} {:?}", String::from_utf8_lossy(data)),
        len => format!("{kind}{control} {id} {len} bytes"),
    }
}

fn id(stream: u64, message: u64) -> PacketId {
    PacketId { stream, message }
}

fn frame(kind: Kind, (stream, message): (u64, u64), done: bool, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Header {
        kind,
        control: false,
        done,
        id: id(stream, message),
        length: data.len() as u64,
    }
    .encode(&mut out);
    out.extend_from_slice(data);
    out
}

fn message(id: (u64, u64), done: bool, data: &[u8]) -> Vec<u8> {
    frame(Kind::MESSAGE, id, done, data)
}

#[track_caller]
fn assert_violation(frames: &[Vec<u8>], frame: (u64, u64), last: (u64, u64)) {
    let error = ProtocolError::IdMonotonicity {
        frame: id(frame.0, frame.1),
        last: id(last.0, last.1),
    };
    assert_eq!(read(&frames.concat()).1, Some(error));
}

#[test]
fn wire_003_two_frames_are_one_message() {
    let bytes = [0x04, 1, 2, 2, b'h', b'e', 0x05, 1, 2, 3, b'l', b'l', b'o'];
    assert_eq!(read(&bytes).0, [r#"Message <id s:1 m:2> "hello""#]);
}

#[test]
fn wire_005_empty_frames_are_concatenated() {
    let frames = [
        message((1, 2), false, b""),
        message((1, 2), false, b"x"),
        message((1, 2), true, b""),
    ];
    assert_eq!(read(&frames.concat()).0, [r#"Message <id s:1 m:2> "x""#]);
}

#[test]
fn wire_006_a_new_id_drops_the_unfinished_packet() {
    let frames = [message((1, 2), false, b"old"), message((1, 3), true, b"new")];
    assert_eq!(read(&frames.concat()).0, [r#"Message <id s:1 m:3> "new""#]);
}

#[test]
fn wire_007_an_unfinished_packet_may_be_followed_by_another_kind() {
    let frames = [
        message((1, 2), false, b"old"),
        frame(Kind::CLOSE_SEND, (1, 3), true, b""),
    ];
    assert_eq!(read(&frames.concat()).0, [r#"CloseSend <id s:1 m:3> """#]);
}

#[test]
fn wire_008_one_packet_has_one_kind() {
    let frames = [
        message((1, 2), false, b"x"),
        frame(Kind::CLOSE_SEND, (1, 2), true, b""),
    ];
    let error = read(&frames.concat()).1.unwrap();
    assert_eq!(
        error.to_string(),
        "protocol error: packet kind change (fr:CloseSend pkt:Message)"
    );
}

#[test]
fn wire_009_a_finished_id_never_comes_again() {
    assert_violation(
        &[message((1, 1), true, b""), message((1, 1), true, b"")],
        (1, 1),
        (1, 2),
    );
}

#[test]
fn wire_010_message_ids_never_go_down() {
    assert_violation(
        &[message((1, 6), true, b""), message((1, 4), true, b"")],
        (1, 4),
        (1, 7),
    );
}

#[test]
fn wire_011_a_dropped_packet_is_not_taken_up_again() {
    let frames = [
        message((1, 2), false, b""),
        message((1, 3), false, b""),
        message((1, 2), true, b""),
    ];
    assert_violation(&frames, (1, 2), (1, 3));
}

#[test]
fn wire_012_there_is_no_stream_0() {
    let error = read(&message((0, 1), true, b"")).1.unwrap();
    assert_eq!(
        error.to_string(),
        "protocol error: id monotonicity violation (fr:<id s:0 m:1> r:<id s:1 m:1>)"
    );
}

#[test]
fn wire_013_there_is_no_message_0_of_stream_1() {
    assert_violation(&[message((1, 0), true, b"")], (1, 0), (1, 1));
}

#[test]
fn wire_014_message_0_of_a_later_stream_is_accepted() {
    assert_eq!(
        read(&message((2, 0), true, b"x")),
        (vec![r#"Message <id s:2 m:0> "x""#.into()], None)
    );
}

#[test]
fn wire_015_ids_may_leave_gaps() {
    let frames = [
        message((7, 3), true, b""),
        message((7, 9), true, b""),
        message((7, 100), true, b""),
    ];
    let (packets, error) = read(&frames.concat());
    assert_eq!((packets.len(), error), (3, None));
}

#[test]
fn wire_016_stream_ids_never_go_down() {
    assert_violation(
        &[message((3, 1), true, b""), message((2, 9), true, b"")],
        (2, 9),
        (3, 2),
    );
}

#[test]
fn wire_017_a_number_without_end_is_refused() {
    let bytes = [&[0x05][..], &[0x80; 10]].concat();
    assert_eq!(read(&bytes).1, Some(ProtocolError::VarintTooLong));
    let chopped = read_chopped(&bytes, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(chopped.1, Some(ProtocolError::VarintTooLong));
    assert_eq!(
        ProtocolError::VarintTooLong.to_string(),
        "protocol error: drpc: varint too long"
    );
}

#[test]
fn wire_018_longer_forms_of_numbers_are_accepted() {
    let bytes = [0x05, 0x81, 0x00, 0x81, 0x80, 0x00, 0x81, 0x00, b'x'];
    assert_eq!(read(&bytes).0, [r#"Message <id s:1 m:1> "x""#]);
}

#[test]
fn wire_021_a_packet_is_control_when_any_of_its_frames_is() {
    let first = [0x90, 1, 2, 0, 0x11, 1, 2, 0];
    let last = [0x10, 1, 2, 0, 0x91, 1, 2, 0];
    for bytes in [first, last] {
        assert_eq!(read(&bytes).0, [r#"Kind(8) control <id s:1 m:2> """#]);
    }
    let dropped = [0x90, 1, 2, 0, 0x11, 1, 3, 0];
    assert_eq!(read(&dropped).0, [r#"Kind(8) <id s:1 m:3> """#]);
}

#[test]
fn wire_026_a_frame_that_breaks_a_rule_is_refused_only_when_all_of_it_came() {
    let cases = [
        message((1, 0), true, b"abc"),
        [
            message((1, 1), false, b""),
            frame(Kind::CLOSE, (1, 1), true, b"abc"),
        ]
        .concat(),
        [
            message((1, 1), false, &vec![0; MAX_PACKET - 2]),
            message((1, 1), true, b"abc"),
        ]
        .concat(),
    ];
    for bytes in cases {
        assert_eq!(read(&bytes[..bytes.len() - 1]).1, None);
        assert!(read(&bytes).1.is_some());
    }
}

#[test]
fn wire_081_four_mib_are_accepted_in_one_frame_or_many() {
    let data = vec![7; MAX_PACKET];
    let whole = message((1, 1), true, &data);
    let more_behind = [whole.clone(), message((1, 2), true, &[1; 1000])].concat();
    let split = [
        message((1, 1), false, &data[..1]),
        message((1, 1), true, &data[1..]),
    ]
    .concat();
    let expected = "Message <id s:1 m:1> 4194304 bytes";
    assert_eq!(read(&whole).0, [expected]);
    assert_eq!(
        read(&more_behind).0,
        [expected, "Message <id s:1 m:2> 1000 bytes"]
    );
    assert_eq!(read_chopped(&split, &[1000, 70_000]).0, [expected]);
}

#[test]
fn wire_082_one_byte_more_than_four_mib_is_refused() {
    let data = vec![7; MAX_PACKET + 1];
    let split = [
        message((1, 1), false, &data[1..]),
        message((1, 1), true, &data[..1]),
    ]
    .concat();
    for bytes in [message((1, 1), true, &data), split] {
        let error = read(&bytes).1.unwrap();
        assert_eq!(error.to_string(), "protocol error: data overflow (len:4194305)");
    }
}

#[test]
fn wire_083_a_length_that_never_fits_is_refused_by_the_header() {
    let header = [0x05, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(
        read(&header).1,
        Some(ProtocolError::DataOverflow { length: 0xffff_ffff })
    );
    let largest = [&[0x05, 1, 1][..], &[0xff; 9], &[0x01]].concat();
    assert_eq!(
        read(&largest).1,
        Some(ProtocolError::DataOverflow { length: u64::MAX })
    );
}

#[test]
fn memory_grows_with_what_came_and_not_with_what_was_announced() {
    let mut reader = PacketReader::new();
    reader.push(Bytes::from_static(&[0x05, 1, 1, 0x80, 0x80, 0x80, 0x02, b'x']));
    assert_eq!(reader.next(), Ok(None));
    assert_eq!((reader.buffered(), reader.assembling()), (0, 1));
    assert!(reader.packet.unwrap().data.capacity() < 1024);
}

#[test]
fn what_stays_unread_is_in_no_buffer_much_larger_than_itself() {
    let messages: Vec<_> = (1..=100)
        .map(|number| message((1, number), true, &[b'x'; 50]))
        .collect();
    let together = Bytes::from([&messages.concat()[..], &[0; 10_000]].concat());
    let mut reader = PacketReader::new();
    reader.push(together.slice(..together.len() - 10_000));
    assert!(reader.next().unwrap().is_some());
    reader.detach();
    assert!(together.is_unique());
    let (mut read, mut copies) = (1, 0);
    while reader.next().unwrap().is_some() {
        read += 1;
        let before = reader.own;
        reader.detach();
        copies += usize::from(reader.own != before);
        assert!(reader.buffered() == 0 || reader.own <= MAX_WASTE * reader.buffered());
    }
    assert_eq!((read, copies), (100, 3), "each copy is of a quarter of the last");
}

#[test]
fn a_whole_packet_is_a_slice_of_its_chunk() {
    let chunk = Bytes::from(message((1, 1), true, b"data"));
    let mut reader = PacketReader::new();
    reader.push(chunk.clone());
    let packet = reader.next().unwrap().unwrap();
    assert_eq!(packet.data.as_ptr(), chunk[4..].as_ptr());
}

#[test]
fn a_chunk_is_let_go_once_it_is_read() {
    let cases = [
        ("a packet without data", message((1, 1), true, b"")),
        ("a packet", message((1, 1), true, b"data")),
        ("a header without its data", vec![0x05, 1, 1, 4]),
        ("half a header", vec![0x05, 1]),
        ("half a frame", vec![0x05, 1, 1, 4, b'd']),
        ("an unfinished packet", message((1, 1), false, b"data")),
    ];
    for (name, bytes) in cases {
        let chunk = Bytes::from(bytes);
        let mut reader = PacketReader::new();
        reader.push(chunk.clone());
        while let Ok(Some(_)) = reader.next() {}
        assert!(chunk.is_unique(), "{name}");
    }
}

#[test]
fn chunks_that_wait_are_joined() {
    let bytes = [message((1, 1), true, b"one"), message((1, 2), true, b"two")].concat();
    let mut reader = PacketReader::new();
    for byte in &bytes {
        reader.push(Bytes::copy_from_slice(&[*byte]));
    }
    assert_eq!(reader.buffered(), bytes.len());
    assert_eq!(
        show(&reader.next().unwrap().unwrap()),
        r#"Message <id s:1 m:1> "one""#
    );
    assert_eq!(
        show(&reader.next().unwrap().unwrap()),
        r#"Message <id s:1 m:2> "two""#
    );
    assert_eq!(reader.next(), Ok(None));
}

#[test]
fn message_ids_wrap_as_they_do_in_go() {
    let frames = [message((1, u64::MAX), true, b""), message((1, 1), true, b"")];
    let (packets, error) = read(&frames.concat());
    assert_eq!((packets.len(), error), (2, None));
}

type FrameParts = (u8, u64, u64, bool, Vec<u8>);

fn frames() -> impl Strategy<Value = Vec<FrameParts>> {
    let data = proptest::collection::vec(any::<u8>(), 0..40);
    let frame = (1_u8..9, 1_u64..3, 1_u64..4, any::<bool>(), data);
    proptest::collection::vec(frame, 0..12)
}

proptest! {
    #[test]
    fn wire_002_chopping_changes_nothing(
        frames in frames(),
        cuts in proptest::collection::vec(0_usize..600, 0..20),
        tail in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, stream, id, done, data)| frame(Kind::numbered(*kind), (*stream, *id), *done, data))
            .collect();
        bytes.extend(tail);
        let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
        cuts.sort_unstable();
        let every: Vec<_> = (1..bytes.len()).collect();
        let whole = read(&bytes);
        prop_assert_eq!(&read_chopped(&bytes, &cuts), &whole);
        prop_assert_eq!(&read_chopped(&bytes, &every), &whole);
    }

    #[test]
    fn what_is_written_is_read(
        packets in proptest::collection::vec((1_u8..8, 0_u32..200_000), 0..4),
    ) {
        let mut out = BytesMut::new();
        let mut expected = Vec::new();
        for (message, (kind, len)) in (1..).zip(packets) {
            let data: Vec<u8> = (0..len).map(|index| (index >> 4).to_le_bytes()[0]).collect();
            let (kind, id) = (Kind::numbered(kind), id(3, message));
            crate::mux::frame::write_split(kind, id, data.len(), &mut out, |out| out.extend_from_slice(&data));
            expected.push(Packet { id, kind, control: false, data: data.into() });
        }
        let mut reader = PacketReader::new();
        reader.push(out.freeze());
        for packet in expected {
            prop_assert_eq!(reader.next(), Ok(Some(packet)));
        }
        prop_assert_eq!(reader.next(), Ok(None));
    }
}
