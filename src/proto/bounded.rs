//! Messages that are read up to a bound, where reading all that a peer packs into 4 MiB would cost hundreds of times that.

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};

use super::tailnet::TelemetryEvent;

/// Events that are read of one `TelemetryRequest`. Clients send one a call; the original's batches have as many.
pub const MAX_TELEMETRY_EVENTS: usize = 1_000;

/// Field number of the events.
const EVENTS: u32 = 1;

/// `coder.tailnet.v2.TelemetryRequest`: two bytes make an event of several hundred.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryRequest {
    /// The first [`MAX_TELEMETRY_EVENTS`] events.
    pub events: Vec<TelemetryEvent>,
    /// Events beyond these, which were not read.
    pub unread: usize,
}

impl prost::Message for TelemetryRequest {
    fn encode_raw(&self, out: &mut impl BufMut) {
        message::encode_repeated(EVENTS, &self.events, out);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag == EVENTS && self.events.len() < MAX_TELEMETRY_EVENTS {
            return message::merge_repeated(wire_type, &mut self.events, buf, ctx);
        }
        self.unread += usize::from(tag == EVENTS);
        skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(EVENTS, &self.events)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn events_are_read_up_to_the_bound() {
        let event = |id: u8| TelemetryEvent {
            id: vec![id; 16],
            ..TelemetryEvent::default()
        };
        let honest = TelemetryRequest {
            events: vec![event(1), event(2)],
            unread: 0,
        };
        let bytes = honest.encode_to_vec();
        assert_eq!(
            bytes.len(),
            2 * 20,
            "each event has 18 bytes, its tag and its length"
        );
        assert_eq!(TelemetryRequest::decode(&*bytes).unwrap(), honest);

        // As many empty events as a message can hold, and a field of a later version.
        let many = [[0x0a, 0].repeat(2 * 1024 * 1024 - 1), vec![0x10, 1]].concat();
        let read = TelemetryRequest::decode(&*many).unwrap();
        assert_eq!(read.events.len(), MAX_TELEMETRY_EVENTS);
        assert_eq!(read.unread, 2 * 1024 * 1024 - 1 - MAX_TELEMETRY_EVENTS);
        assert!(TelemetryRequest::decode(&[0x0a, 5, 0][..]).is_err());
    }
}
