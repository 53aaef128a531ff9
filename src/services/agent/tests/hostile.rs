//! Requests of the largest size that hold as many things as they can: answered or refused, with little left behind.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

use super::*;
use crate::mux::{MAX_PACKET, Status};

/// A request that repeats `item` in field `field` up to the limit of a message.
fn repeated<M: Message + Default>(field: u32, item: &[u8]) -> M {
    let mut message = BytesMut::with_capacity(MAX_PACKET);
    while message.len() + item.len() + 3 <= MAX_PACKET {
        message.put_u8(u8::try_from(field << 3 | 2).unwrap());
        message.put_u8(u8::try_from(item.len()).unwrap());
        message.put_slice(item);
    }
    M::decode(message.freeze()).unwrap()
}

/// A request whose field 1 is a message that repeats `item` in field `field` up to the limit.
fn nested<M: Message + Default>(field: u32, item: &[u8]) -> M {
    let mut inner = BytesMut::new();
    while inner.len() + item.len() + 16 <= MAX_PACKET {
        inner.put_u8(u8::try_from(field << 3 | 2).unwrap());
        inner.put_u8(u8::try_from(item.len()).unwrap());
        inner.put_slice(item);
    }
    let mut message = BytesMut::new();
    prost::encoding::bytes::encode(1, &Bytes::from(inner), &mut message);
    M::decode(message.freeze()).unwrap()
}

fn text<T>(reply: Result<T, Status>) -> String {
    reply.map_or_else(|error| error.text().to_owned(), |_| "ok".to_owned())
}

#[tokio::test]
async fn four_mebibytes_of_tiny_things_are_answered_or_refused() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for (what, reply, expected) in [
        (
            "metadata without result",
            text(api.batch_update_metadata(repeated(2, b"")).await),
            "result is required",
        ),
        (
            "metadata of one empty key",
            text(api.batch_update_metadata(repeated(2, &[0x12, 0])).await),
            "ok",
        ),
        (
            "log lines",
            text(api.batch_create_logs(repeated(2, b"")).await),
            "2097151 log lines in one request exceed 65536",
        ),
        (
            "display apps",
            text(api.create_sub_agent(repeated(6, &[0; 100])).await),
            "field: display_apps detail: 4112000 display apps exceed 1000",
        ),
        (
            "apps",
            text(
                api.create_sub_agent(proto::CreateSubAgentRequest {
                    name: "child".into(),
                    ..repeated(5, b"")
                })
                .await,
            ),
            "field: apps detail: 2097151 apps exceed 1000",
        ),
        (
            "healths",
            text(api.batch_update_app_healths(repeated(1, b"")).await),
            "parse workspace app ID \"\": invalid UUID (got 0 bytes)",
        ),
        (
            "samples without anything",
            text(api.push_resources_monitoring_usage(repeated(1, b"")).await),
            "ok",
        ),
        (
            "volumes of nowhere",
            text(api.push_resources_monitoring_usage(nested(3, b"")).await),
            "ok",
        ),
        (
            "subsystems",
            text(api.update_startup(nested(3, &[1; 100])).await),
            "invalid agent semver version \"\"",
        ),
    ] {
        assert_eq!(reply, expected, "{what}");
    }
    // Statistics of many protocols are cut to what one row may hold.
    let protocols = nested::<proto::UpdateStatsRequest>(1, &[0x0a, 1, b'a', 0x10, 1]);
    assert_eq!(text(api.update_stats(protocols).await), "ok");
    fixture.flush().await;
    for table in [
        "workspace_agent_logs",
        "workspace_app_statuses",
        "workspace_agent_script_timings",
        "notification_messages",
    ] {
        assert_eq!(fixture.value(&format!("SELECT count(*) FROM {table}")).await, "0");
    }
    assert_eq!(fixture.value("SELECT count(*) FROM workspace_agents").await, "1");
    assert_eq!(
        fixture
            .value("SELECT count(*) FROM workspace_agent_metadata WHERE value <> ''")
            .await,
        "0"
    );
}

#[tokio::test]
async fn invalid_utf_8_is_refused_by_the_decoder() {
    let bad = [0x0a, 2, 0xff, 0xfe];
    assert!(proto::CreateSubAgentRequest::decode(&bad[..]).is_err());
    assert!(proto::UpdateAppStatusRequest::decode(&bad[..]).is_err());
    let log = [&[0x12, 4, 0x12, 2][..], &bad[2..]].concat();
    assert!(proto::BatchCreateLogsRequest::decode(&log[..]).is_err());
    let metadata = [&[0x12, 4][..], &bad[..]].concat();
    assert!(proto::BatchUpdateMetadataRequest::decode(&metadata[..]).is_err());
}

#[tokio::test]
async fn log_lines_of_a_request_are_looked_at_up_to_the_limit() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for (lines, counted) in [(65_535, false), (65_536, false), (65_537, true)] {
        // Refused in any case, for a source that is none.
        let request = proto::BatchCreateLogsRequest {
            log_source_id: vec![1],
            logs: vec![proto::Log::default(); lines],
        };
        let told = text(api.batch_create_logs(request).await);
        assert_eq!(
            told.ends_with("log lines in one request exceed 65536"),
            counted,
            "{told}"
        );
        assert_ne!(told, "ok");
    }
}
