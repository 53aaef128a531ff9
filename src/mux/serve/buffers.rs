//! What sessions may buffer, and the account of what all of them do.
//!
//! Owns the bounds. While there is room a session may hold much, so that a slow peer with large messages loses nothing. Once
//! all sessions together hold as much as the process may, each may hold no more than an honest one ever needs, until there
//! is room again: a few peers that hold all they can take from the others neither memory nor calls. Nor may one of several
//! sessions of a peer take more, or their number would be what bounds the peer. Never reads or drops what is buffered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mux::packet::MAX_PACKET;

/// Bytes of all calls' frames that may wait before no further call is begun: some dozen stuck streams with messages of the
/// greatest size. Handlers that send streams then wait too.
pub const SESSION_SEND_BUFFER: usize = 16 * 1024 * 1024;

/// Bytes of all calls' frames that may wait before replies of calls that had begun before are errors instead. One reply may
/// go beyond it.
pub const SESSION_SEND_LIMIT: usize = 2 * SESSION_SEND_BUFFER;

/// Bytes of input that all calls of a session may hold: unread, in packets half received, waiting to begin, or as the
/// requests of handlers at work. An honest agent stays far below: it would take sixteen packets of the greatest size. The
/// stream that goes beyond it is reset.
pub const SESSION_RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// What takes the place of [`SESSION_RECEIVE_BUFFER`] and of [`SESSION_SEND_BUFFER`], with the limit at twice as much, while
/// all sessions together hold as much as they may, and while a session is one of several of its peer: two packets of the
/// greatest size.
pub const CROWDED_BUFFER: usize = 2 * MAX_PACKET;

/// The account is kept in steps of so much, so that what most sessions ever hold, less, costs nothing.
const STEP: usize = 64 * 1024;

/// What one session may buffer, in bytes.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Input. The stream that goes beyond it is reset.
    pub(super) receive: usize,
    /// Output from which on no call begins and streams wait.
    pub(super) begin: usize,
    /// Output from which on replies are errors.
    pub(super) send: usize,
}

const ROOMY: Bounds = Bounds {
    receive: SESSION_RECEIVE_BUFFER,
    begin: SESSION_SEND_BUFFER,
    send: SESSION_SEND_LIMIT,
};

const CROWDED: Bounds = Bounds {
    receive: CROWDED_BUFFER,
    begin: CROWDED_BUFFER,
    send: 2 * CROWDED_BUFFER,
};

/// What all sessions of the process buffer, and may. Cheap to clone; clones are one account.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Account>);

#[derive(Debug)]
struct Account {
    most: usize,
    held: AtomicUsize,
}

impl Buffers {
    /// An account of sessions that may hold `most` bytes together before each is held to [`CROWDED_BUFFER`].
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Account {
            most,
            held: AtomicUsize::new(0),
        }))
    }

    /// What a session may buffer now, which is one of several of its peer or not. A change wakes nobody: what waits for room
    /// looks again with the next frame or ping.
    pub(super) fn bounds(&self, one_of_several: bool) -> &'static Bounds {
        if one_of_several || self.held() >= self.0.most {
            &CROWDED
        } else {
            &ROOMY
        }
    }

    /// Bytes that all sessions hold, to the step of each.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Bytes that all sessions may hold.
    #[cfg(test)]
    pub(crate) fn most(&self) -> usize {
        self.0.most
    }
}

/// One session's part of an account, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    buffers: Buffers,
    counted: usize,
}

impl Part {
    pub(super) fn of(buffers: &Buffers) -> Self {
        Self {
            buffers: buffers.clone(),
            counted: 0,
        }
    }

    /// The session holds so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = bytes / STEP * STEP;
        let held = &self.buffers.0.held;
        if bytes > self.counted {
            held.fetch_add(bytes - self.counted, Ordering::Relaxed);
        } else if bytes < self.counted {
            held.fetch_sub(self.counted - bytes, Ordering::Relaxed);
        }
        self.counted = bytes;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_may_hold_less_while_all_together_hold_as_much_as_they_may() {
        let buffers = Buffers::new(10 * STEP);
        let (mut one, mut other) = (Part::of(&buffers), Part::of(&buffers));
        for (bytes, crowded) in [
            (4 * STEP - 1, false),
            (5 * STEP - 1, false),
            (5 * STEP, true),
            (5 * STEP + 1, true),
        ] {
            one.set(5 * STEP);
            other.set(bytes);
            let may = buffers.bounds(false).receive;
            assert_eq!(may == CROWDED_BUFFER, crowded, "{bytes}");
            assert_eq!(may == SESSION_RECEIVE_BUFFER, !crowded, "{bytes}");
            assert_eq!(buffers.bounds(true).receive, CROWDED_BUFFER, "{bytes}");
        }
        drop(one);
        assert_eq!(buffers.held(), 5 * STEP);
        assert_eq!(buffers.bounds(false).begin, SESSION_SEND_BUFFER);
        drop(other);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn a_message_of_the_greatest_size_always_has_room() {
        for bounds in [&ROOMY, &CROWDED] {
            assert!(bounds.receive > MAX_PACKET && bounds.begin > MAX_PACKET);
            assert!(bounds.send > bounds.begin);
        }
    }
}
