//! WebSocket frames of either end, whole.

use std::io::Cursor;

use bytes::{Buf as _, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use crate::capture::FrameKind;

/// The longest frame that is taken apart: sixteen packets of the greatest size.
const MAX_FRAME: u64 = 64 * 1024 * 1024;

/// A whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) last: bool,
    pub(super) data: Vec<u8>,
}

/// What came is no WebSocket frame, or too long.
#[derive(Debug, thiserror::Error)]
#[error("no WebSocket frame, or one of more than {MAX_FRAME} bytes")]
pub(super) struct NoFrame;

/// Collects bytes until frames are whole.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Adds bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, NoFrame> {
        let mut cursor = Cursor::new(&self.buffer[..]);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| NoFrame)? else {
            return Ok(None);
        };
        let used = usize::try_from(cursor.position()).map_err(|_| NoFrame)?;
        let length = usize::try_from(length)
            .ok()
            .filter(|_| length <= MAX_FRAME)
            .ok_or(NoFrame)?;
        if self.buffer.len() < used + length {
            return Ok(None);
        }
        self.buffer.advance(used);
        let mut data = self.buffer.split_to(length).to_vec();
        if let Some(mask) = header.mask {
            for (byte, key) in data.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= key;
            }
        }
        let opcode = u8::from(header.opcode);
        let known = FrameKind::ALL.iter().find(|(_, number, _)| *number == opcode);
        Ok(Some(Frame {
            kind: known.ok_or(NoFrame)?.0,
            last: header.is_final,
            data,
        }))
    }
}

/// A frame as a client sends it, with a mask of zeros.
pub(super) fn client_frame(kind: FrameKind, last: bool, data: &[u8]) -> Vec<u8> {
    let opcode = FrameKind::ALL.iter().find(|(known, ..)| *known == kind);
    let header = FrameHeader {
        is_final: last,
        opcode: OpCode::from(opcode.map_or(0, |(_, number, _)| *number)),
        mask: Some([0; 4]),
        ..FrameHeader::default()
    };
    let mut out = Vec::new();
    // A length of memory always fits, and memory takes all that is written.
    let _ = header.format(data.len() as u64, &mut out);
    out.extend_from_slice(data);
    out
}
