use std::fmt::Write as _;

use super::*;
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
