//! Frames on their way to the pipe.
//!
//! Owns the output buffer and its limit. Control frames go in regardless of the limit, because pings and credit must
//! never wait behind data; each of them answers bytes that the shell chose to read, which bounds them.

use bytes::BytesMut;

use super::header::{Flags, HEADER_LEN, Header, Kind, StreamId};

/// Data that may wait for the pipe, bytes: two full messages, so that one fills while the other is sent. Beyond it,
/// streams keep their own data.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Control frames that may wait behind full data, bytes: some five thousand, which no honest peer asks for.
const CONTROL_LIMIT: usize = 64 * 1024;

/// First allocation: room for some small replies, so that a session that answers one call grows no buffer in steps.
const FIRST_ROOM: usize = 512;

#[derive(Debug)]
pub(super) struct Output(BytesMut);

impl Output {
    pub(super) fn new() -> Self {
        Self(BytesMut::new())
    }

    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// Payload bytes that fit into one more data frame.
    pub(super) fn room(&self) -> usize {
        OUTPUT_LIMIT.saturating_sub(self.0.len() + HEADER_LEN)
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.0.len() > OUTPUT_LIMIT + CONTROL_LIMIT
    }

    pub(super) fn frame(&mut self, kind: Kind, flags: Flags, stream: StreamId, length: u32) {
        if self.0.is_empty() {
            self.0.reserve(FIRST_ROOM);
        }
        self.0.extend_from_slice(
            &Header {
                kind,
                flags,
                stream,
                length,
            }
            .encode(),
        );
    }

    /// Gives the buffer's memory back when nothing waits in it.
    pub(super) fn release(&mut self) {
        if self.0.is_empty() && self.0.capacity() > 0 {
            self.0 = BytesMut::new();
        }
    }
}
