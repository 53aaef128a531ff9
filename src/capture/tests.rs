use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mux::inspect::MuxFrame;

const TEXT: &str = "\
drpcd capture 1
request /api/v2/workspaceagents/me/rpc?version=2.8
status 101

0.000120 > binary
  window syn stream 1 length 0
0.000151 > binary
  data stream 1 length 25
0.000163 > binary +
  invoke 1/1 done \"/t/Echo\"
  message 1/2 done 0a04.\"some\"
0.000170 > continuation
  close-send 1/3 done -
0.001000 < binary
  data ack stream 1 length 14
  message 1/1 done 0a04.\"some\"
  close-send 1/2 done -
0.002000 > binary
  window fin stream 1 length 0
0.003000 < binary
  window fin stream 1 length 0
0.004000 > close
  bytes 03e8
";

fn capture() -> Capture {
    Capture::parse(TEXT).unwrap()
}

#[test]
fn a_capture_is_read_and_written_the_same() {
    let capture = capture();
    assert_eq!(capture.records.len(), 8);
    assert_eq!(capture.records[3].data, [0x0d, 1, 3, 0]);
    assert_eq!(capture.to_text(), TEXT);
}

#[test]
fn calls_are_found_whatever_they_came_in() {
    let calls = capture().calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[&1].path, "/t/Echo");
    assert_eq!((calls[&1].sent.len(), calls[&1].answers.len()), (3, 2));
    assert_eq!(calls[&1].given_up_at, None);
}

#[test]
fn another_answer_is_a_difference_and_another_time_is_none() {
    let first = capture();
    let mut second = Capture::parse(&TEXT.replace("0.001000", "7.5")).unwrap();
    assert_eq!(compare(&first, &second), []);
    let text = TEXT.replacen(
        "message 1/1 done 0a04.\"some\"",
        "message 1/1 done 0a04.\"else\"",
        1,
    );
    second = Capture::parse(&text).unwrap();
    let differences = compare(&first, &second);
    assert_eq!(differences.len(), 1);
    assert_eq!(
        differences[0].to_string(),
        r#"stream 1 /t/Echo: answer 1 is message 1/1 of 6 bytes "\n\u{4}some" in the first, "#.to_owned()
            + r#"message 1/1 of 6 bytes "\n\u{4}else" in the second"#
    );
    let text = TEXT
        .replace("length 14", "length 10")
        .replacen("  close-send 1/2 done -\n", "", 1);
    second = Capture::parse(&text).unwrap();
    assert_eq!(
        compare(&first, &second)[0].what,
        "2 answers in the first, 1 in the second"
    );
    let text = TEXT.replace(
        "data ack stream 1 length 14\n  message 1/1 done 0a04.\"some\"\n  close-send 1/2 done -",
        "data ack stream 1 length 15\n  error 1/1 done 0000000000000007.\"no!\"",
    );
    second = Capture::parse(&text).unwrap();
    assert!(
        compare(&first, &second)[0]
            .what
            .ends_with(r#"error 1/1 of 11 bytes, code 7 "no!" in the second"#)
    );
    for (end, what) in [("window rst stream 1", "reset"), ("window stream 1", "not ended")] {
        let at = TEXT.rfind("window fin stream 1").unwrap();
        let text = TEXT[..at].to_owned() + &TEXT[at..].replacen("window fin stream 1", end, 1);
        second = Capture::parse(&text).unwrap();
        assert_eq!(
            compare(&first, &second)[0].what,
            format!("ended in good order by the server in the first, {what} in the second")
        );
        // The first may be cut off.
        assert_eq!(compare(&second, &first).is_empty(), what == "not ended");
    }
}

#[test]
fn calls_at_the_same_time_are_compared_whatever_streams_they_took() {
    let call = |stream: u32, text: &str, reply: &str| {
        let sent = format!(
            "0.1 > binary\n  data syn stream {stream} length 19\n  invoke 1/1 done \"/t/Echo\"\n  message 1/2 done \
             0a02.\"{text}\"\n0.2 < binary\n  data ack stream {stream} length 8\n"
        );
        sent + &format!("  message 1/1 done 0a02.\"{reply}\"\n")
    };
    let of = |calls: &[String]| {
        let head = TEXT.split_once("\n\n").unwrap().0;
        Capture::parse(&format!("{head}\n\n{}", calls.concat())).unwrap()
    };
    let first = of(&[call(1, "a1", "A1"), call(3, "b2", "B2"), call(5, "b2", "B2")]);
    let other = of(&[call(1, "b2", "B2"), call(3, "a1", "A1"), call(5, "b2", "B2")]);
    assert_eq!(compare(&first, &other), []);
    // What the agent said may differ too, such as a time.
    let later = of(&[call(1, "b2", "B2"), call(3, "a3", "A1"), call(5, "b2", "B2")]);
    assert_eq!(compare(&first, &later), []);
    let fewer = of(&[call(1, "b2", "B2"), call(3, "a1", "XX")]);
    let streams = |differences: Vec<Difference>| differences.iter().map(|one| one.stream).collect::<Vec<_>>();
    assert_eq!(streams(compare(&first, &fewer)), [1, 5]);
    assert_eq!(streams(compare(&fewer, &first)), [3, 5]);
}

/// Two messages of a stream, of which the agent waits for one and gives the call up.
const GIVEN_UP: &str = "\
drpcd capture 1
request /api/v2/workspaceagents/me/rpc?version=2.8
status 101

0.000120 > binary
  data syn stream 1 length 25
  invoke 1/1 done \"/t/Count\"
  message 1/2 done 0a03.\"9 9\"
  close-send 1/3 done -
0.001000 < binary
  data ack stream 1 length 7
  message 1/1 done 0a01.\"0\"
0.002000 > binary
  window fin stream 1 length 0
0.002500 < binary
  data stream 1 length 7
  message 1/2 done 0a01.\"1\"
0.003000 < binary
  window fin stream 1 length 0
";

#[test]
fn a_call_that_was_given_up_has_the_answers_that_had_come_by_then() {
    let first = Capture::parse(GIVEN_UP).unwrap();
    assert_eq!(first.calls()[&1].given_up_at, Some(1));
    let of = |text: &str| Capture::parse(text).unwrap();
    let later = "0.002500 < binary\n  data stream 1 length 7\n  message 1/2 done 0a01.\"1\"\n";
    let fewer = GIVEN_UP.replace(later, "");
    assert_eq!(compare(&first, &of(&fewer)), []);
    let more = GIVEN_UP.replace(later, &(later.to_owned() + &later.replace("1/2", "1/3")));
    assert_eq!(compare(&first, &of(&more)), []);
    let none = fewer.replace(
        "data ack stream 1 length 7\n  message 1/1 done 0a01.\"0\"",
        "window ack stream 1 length 0",
    );
    assert_eq!(
        compare(&first, &of(&none))[0].what,
        "given up after 1 answers in the first, 0 in the second"
    );
}

#[test]
fn bad_lines_are_named() {
    for (text, wrong) in [
        ("", "line 0: \"drpcd capture 1\" expected"),
        (
            "drpcd capture 1\nrequest /\nstatus x\n",
            "line 3: \"x\" is no status",
        ),
        (
            "drpcd capture 1\nrequest /\nstatus 101\n  bytes 00\n",
            "line 4: no frame that this belongs to",
        ),
        (
            "drpcd capture 1\nrequest /\nstatus 101\n0 > binary\n  bytes 0\n",
            "line 5: \"0\" is not hexadecimal",
        ),
        (
            "drpcd capture 1\nrequest /\nstatus 101\n0 > what\n",
            "line 4: no kind of frame",
        ),
        (
            "drpcd capture 1\nrequest /\nstatus 101\n0 > binary\n  bytes 00*99999999\n",
            "line 5: more than 67108864 bytes",
        ),
    ] {
        assert_eq!(Capture::parse(text).unwrap_err().to_string(), wrong);
    }
}

#[test]
fn tokens_in_a_target_are_left_out() {
    assert_eq!(
        redact("/rpc?version=2.8&coder_session_token=secret&resume_token=other"),
        "/rpc?version=2.8&coder_session_token=REDACTED&resume_token=REDACTED"
    );
    for (secret, redacted) in [
        ("access_token=secret", "access_token=REDACTED"),
        ("coder%5Fsession_token=secret", "coder%5Fsession_token=REDACTED"),
        ("version=2;coder_session_token=secret", "version=REDACTED"),
        ("version=2.8&role=", "version=2.8&role="),
    ] {
        assert_eq!(redact(&format!("/rpc?{secret}")), format!("/rpc?{redacted}"));
    }
    assert_eq!(redact("/rpc"), "/rpc");
    assert_eq!(
        without_redacted("/rpc?version=2.8&coder_session_token=REDACTED&role=x"),
        "/rpc?version=2.8&role=x"
    );
    assert_eq!(without_redacted("/rpc"), "/rpc");
}

#[test]
fn headers_are_kept_with_their_values_where_those_hold_no_token() {
    let head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nCookie: coder_session_token=secret\r\nX-Own:secret\r\nHOST: a:1\r\n";
    let kept: Vec<_> = headers(Side::Server, head)
        .into_iter()
        .map(|header| format!("{}: {}", header.name, header.value))
        .collect();
    assert_eq!(
        kept,
        [
            "Upgrade: websocket",
            "Cookie: REDACTED",
            "X-Own: REDACTED",
            "HOST: a:1"
        ]
    );
    let capture =
        Capture::parse(&TEXT.replace("status 101\n", "status 101\n> Host: x\n< Upgrade:\n")).unwrap();
    assert_eq!(capture.headers.len(), 2);
    assert_eq!(compare(&capture, &self::capture()), [], "they are for people");
    let wrong = Capture::parse(&TEXT.replace("status 101\n", "status 101\n> Host\n"));
    assert_eq!(wrong.unwrap_err().to_string(), "line 4: no header line");
}

#[test]
fn what_is_not_understood_may_be_a_token() {
    let mut redactor = Redactor::default();
    let ping = MuxFrame {
        kind: MuxFrame::PING,
        flags: MuxFrame::SYN,
        stream: 0,
        length: 7,
    };
    assert_eq!(redactor.redact(Side::Server, &ping.encode()), ping.encode());
    // No version 9 of yamux.
    redactor.redact(Side::Agent, &[9; 12]);
    assert_eq!(redactor.redact(Side::Server, b"token"), [0; 5]);
}

proptest! {
    #[test]
    fn any_bytes_survive_the_text(
        messages in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                (any::<u8>(), 0..200_usize).prop_map(|(byte, times)| vec![byte; times]),
                "[ -~]{0,60}".prop_map(String::into_bytes),
            ],
            0..8,
        ),
        kinds in prop::collection::vec(0_usize..6, 8),
    ) {
        let record = |(data, kind): (Vec<u8>, usize)| Record {
            at: Duration::from_micros(data.len() as u64),
            from: if data.len() % 2 == 0 { Side::Agent } else { Side::Server },
            kind: FrameKind::ALL[kind].0,
            last: data.len() % 3 != 0,
            data,
        };
        let capture = Capture {
            target: "/x".to_owned(),
            status: 101,
            headers: headers(Side::Agent, b"GET /x HTTP/1.1\r\nHost: x:1\r\nCookie: a=b\r\nEmpty:\r\n"),
            records: messages.into_iter().zip(kinds).map(record).collect(),
        };
        prop_assert_eq!(Capture::parse(&capture.to_text()), Ok(capture));
    }
}
