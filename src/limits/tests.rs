use std::fmt::Write as _;

use super::*;
use crate::mux::Field;
use crate::proto::agent as pb;
use crate::proto::agent::push_resources_monitoring_usage_request::Datapoint;
use crate::proto::agent::push_resources_monitoring_usage_request::datapoint::VolumeUsage;

const OPERATING: &str = include_str!("../../docs/OPERATING.md");

fn assert_documented(table: &str) {
    assert!(OPERATING.contains(table), "the table should be:\n{table}");
}

#[test]
fn every_limit_is_documented_as_it_is() {
    let mut text = String::from("| what | limit | beyond it |\n|---|---|---|\n");
    for Limit { what, most, beyond } in table() {
        writeln!(text, "| {what} | {most} | {beyond} |").unwrap();
    }
    assert_documented(&text);
}

#[test]
fn every_limit_of_messages_is_documented_as_it_is() {
    let mut text = String::from("| method | message | elements |\n|---|---|---|\n");
    for (path, bytes, elements) in MESSAGES {
        let method = path.rsplit('/').next().unwrap();
        writeln!(text, "| {method} | {} | {} |", size(bytes), count(elements)).unwrap();
    }
    assert_documented(&text);
}

#[test]
fn every_method_has_a_limit_and_a_layout() {
    let known: Vec<_> = proto::requests().iter().map(|(path, _)| *path).collect();
    let mut limited = MESSAGES.map(|(path, ..)| path);
    assert_eq!(known.len(), limited.len());
    limited.sort_unstable();
    for path in known {
        assert!(limited.binary_search(&path).is_ok(), "{path}");
        assert_eq!(
            message(path).layout.0.is_empty(),
            layout(path).0.is_empty(),
            "{path}"
        );
    }
    assert_eq!(message("/t/Other").bytes, MAX_PACKET);
}

#[test]
fn numbers_are_written_as_people_read_them() {
    assert_eq!(count(0_u32), "0");
    assert_eq!(count(999_u32), "999");
    assert_eq!(count(1_000_u32), "1,000");
    assert_eq!(count(1_234_567_u64), "1,234,567");
    assert_eq!(
        (size(64_u64 << 20), size(1_u64 << 10)),
        ("64 MiB".into(), "1 KiB".into())
    );
}

/// What the sender of `message` to the agent method `name` is told.
fn told(name: &str, message: &impl prost::Message) -> String {
    let bound = super::message(&format!("/coder.agent.v2.Agent/{name}"));
    let told = bound.check(&message.encode_to_vec());
    told.map_or_else(|error| error.text().to_owned(), |()| "ok".to_owned())
}

#[test]
fn elements_of_real_requests_are_taken_up_to_the_limit() {
    for (lines, expected) in [
        (131_071, "ok"),
        (131_072, "ok"),
        (131_073, "message has more than 131072 elements"),
    ] {
        let logs = vec![pb::Log::default(); lines];
        let request = pb::BatchCreateLogsRequest {
            logs,
            ..Default::default()
        };
        assert_eq!(told("BatchCreateLogs", &request), expected);
    }
    for (volumes, expected) in [
        (16_382, "ok"),
        (16_383, "ok"),
        (16_384, "message has more than 16384 elements"),
    ] {
        let point = Datapoint {
            volumes: vec![VolumeUsage::default(); volumes],
            ..Default::default()
        };
        let request = pb::PushResourcesMonitoringUsageRequest {
            datapoints: vec![point],
        };
        assert_eq!(told("PushResourcesMonitoringUsage", &request), expected);
    }
    let stats = |protocols: u32| pb::UpdateStatsRequest {
        stats: Some(pb::Stats {
            connections_by_proto: (0..protocols).map(|number| (number.to_string(), 1)).collect(),
            ..Default::default()
        }),
    };
    assert_eq!(told("UpdateStats", &stats(65_536)), "ok");
    assert_eq!(
        told("UpdateStats", &stats(65_537)),
        "message has more than 65536 elements"
    );
}

/// A message with one element, as short as it can be; `None` where there are no elements.
fn element(layout: &Layout) -> Option<Vec<u8>> {
    layout.0.iter().find_map(|(number, field)| {
        let tag = |wire: u8| {
            let number = u8::try_from(*number).unwrap();
            assert!(number < 16, "a tag of one byte");
            number << 3 | wire
        };
        Some(match field {
            Field::Each(_) | Field::Texts => vec![tag(2), 0],
            Field::Varints => vec![tag(0), 1],
            Field::Fixed(8) => [&[tag(1)][..], &[0; 8]].concat(),
            Field::Fixed(_) => [&[tag(5)][..], &[0; 4]].concat(),
            Field::One(layout) => {
                let inner = element(layout)?;
                [&[tag(2), u8::try_from(inner.len()).unwrap()], &inner[..]].concat()
            }
        })
    })
}

#[test]
fn every_method_takes_as_many_bytes_and_elements_as_its_limits_say() {
    for (path, bytes, elements) in MESSAGES {
        let bound = super::message(path);
        let told = |message: &[u8]| bound.check(message).map_err(|error| error.text().to_owned());
        for size in [bytes - 1, bytes, bytes + 1] {
            // A field that is unknown to all, with its number and length in two and four bytes.
            let length = u32::try_from(size - 6).unwrap();
            let part = |shift: u32| u8::try_from(length >> shift & 0x7f).unwrap();
            let head = [
                0xfa,
                0x7f,
                part(0) | 0x80,
                part(7) | 0x80,
                part(14) | 0x80,
                part(21),
            ];
            let message = [&head[..], &vec![0; size - 6]].concat();
            let refused = (size > bytes).then(|| format!("message of {size} bytes exceeds {bytes}"));
            assert_eq!(told(&message).err(), refused, "{path}");
        }
        let Some(element) = element(bound.layout) else {
            assert_eq!(elements, 0, "{path}");
            continue;
        };
        for count in [elements - 1, elements, elements + 1] {
            let refused = (count > elements).then(|| format!("message has more than {elements} elements"));
            assert_eq!(told(&element.repeat(count)).err(), refused, "{path}");
        }
    }
}

/// The worst that a message can be decoded to, by its limits, stays within some MiB. Elements that the compiler gives
/// more room are fine as long as all of them together do not go far beyond the largest packet.
#[test]
fn no_message_grows_to_many_times_its_size() {
    use crate::proto::agent::{boundary_log, create_sub_agent_request, stats};
    let largest = [
        size_of::<pb::Log>(),
        size_of::<pb::Metadata>(),
        size_of::<pb::BoundaryLog>() + size_of::<boundary_log::HttpRequest>(),
        size_of::<stats::Metric>(),
        size_of::<Datapoint>(),
    ];
    let [log, metadata, boundary, metric, point] = largest;
    let elements = |name: &str| super::message(&format!("/coder.agent.v2.Agent/{name}")).elements;
    for (name, each) in [
        ("BatchCreateLogs", log),
        ("BatchUpdateMetadata", metadata),
        ("ReportBoundaryLogs", boundary),
        ("UpdateStats", metric),
        ("PushResourcesMonitoringUsage", point),
        ("CreateSubAgent", size_of::<create_sub_agent_request::App>()),
    ] {
        let grown = elements(name) * each;
        assert!(grown <= 4 * MAX_PACKET, "{name}: {grown}");
    }
}
