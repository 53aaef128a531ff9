//! The awaiting shell around the protocol cores: one task per session, which also polls the handlers of its calls.
//!
//! Owns the order of things: read all there is, let the cores and the handlers work, then write once. Decides when a
//! stream is acknowledged, half-closed and given up. Knows bytes, calls and the registry; never sees what a message means.
//!
//! - A handler runs as a future of the session's task. A panic in it answers its caller and touches nothing else.
//! - A handler is **cancelled** when its peer leaves, cancels or closes the call: a pending or later receive fails, a
//!   pending or later send fails, the handler is polled one last time, and then dropped. Clean-up belongs in guards.
//! - A stream is half-closed only after the peer has done so, because a Go client takes an earlier end for a cancelled
//!   call. Until then what it still sends is read and dropped, for at least [`DRAIN_LIMIT`].
//! - A peer that makes more work than its share is read from more slowly; see [`MAX_OPENS_PER_SECOND`].
//! - A reader that does not read holds up its own streams only: what they may buffer is bounded, and pings, credit and
//!   other streams pass.

mod buffers;
mod cell;
mod control;
mod driver;
mod pace;
mod slot;
#[cfg(test)]
mod tests;
mod timer;

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

pub use self::buffers::{
    Buffers, CROWDED_BUFFER, SESSION_RECEIVE_BUFFER, SESSION_SEND_BUFFER, SESSION_SEND_LIMIT,
};
pub use self::control::{CloseCause, Control};
use self::driver::Driver;
pub use self::pace::{
    MAX_AHEAD, MAX_FRAMES_PER_SECOND, MAX_OPENS_PER_SECOND, MAX_OVERFLOWS_PER_SECOND, MAX_PINGS_PER_SECOND,
    Pace, Paces,
};
use super::pipe::{Close, CloseCode, Pipe, PipeError};
use super::registry::Registry;
pub use super::session::SessionError;
use crate::clock::Clock;

/// Longest time that a stream goes without acknowledgement: short beside the 75 s after which a Go peer gives up the
/// whole session, long enough for nearly every reply to carry the acknowledgement itself.
pub const ACK_DELAY: Duration = Duration::from_millis(50);

/// Streams without acknowledgement at which all are acknowledged at once: a Go peer opens no more than 256 of them.
pub const ACK_BACKLOG: usize = 64;

/// How long a peer may leave its side of a finished call open before ours is closed too, at least; at most twice as
/// long. As long again and the stream is reset. Five minutes is what hashicorp/yamux gives a half-closed stream
/// (`StreamCloseTimeout`).
pub const DRAIN_LIMIT: Duration = Duration::from_mins(5);

/// How long the goodbye may take, once a session is over, before the pipe is dropped: a peer that does not read must not
/// hold up a shutdown.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of one call's frames that may wait for credit before its handler has to wait: one credit window's worth is on
/// its way already, so a quarter of it keeps a stream busy. One message may go beyond it.
pub const SEND_BUFFER: usize = 64 * 1024;

/// Bytes that one stream sends before the next one has its turn: a full message.
const SEND_TURN: usize = 32 * 1024;

/// Chunks read before the calls have their turn, so that reading cannot starve them.
const READS_PER_TURN: usize = 32;

/// Work of a peer, as a share of its second, after which other sessions have their turn: 33 streams or calls begun, or 525
/// other frames, for either of which a processor takes up to a millisecond. Of a chunk, which may hold some hundred calls, the
/// rest waits, but for what is over with the look at it, such as pings.
const WORK_PER_WAKE_UP: Duration = Duration::from_millis(2);

/// How long a peer that is ahead of its pace is not read from, at least: its sessions, of which one goes on at a time, are not
/// all woken for every frame. What it may do meanwhile it may do after it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Turns before other sessions have theirs.
const TURNS: usize = 16;

/// Size of a message whose reading is reported at once, for the credit it frees. Less adds up to less than half a window.
const REPORTED_READ: usize = 32 * 1024;

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The peer left in good order. Nothing to log.
    PeerLeft,
    /// [`Control::close`] ended it.
    Closed {
        /// Who wanted it.
        cause: CloseCause,
        /// Why; not told to the peer.
        reason: Cow<'static, str>,
    },
    /// It could not go on. The peer was told with close 1011 and the error's text.
    Failed(ServeError),
}

/// Why a session could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The peer broke a rule of the session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The transport failed.
    #[error(transparent)]
    Pipe(#[from] PipeError),
}

impl SessionEnd {
    fn close(&self) -> Close {
        let (code, reason) = match self {
            Self::PeerLeft
            | Self::Closed {
                cause: CloseCause::Requested,
                ..
            } => (CloseCode::NORMAL, "".into()),
            Self::Closed {
                cause: CloseCause::Draining,
                ..
            } => (CloseCode::GOING_AWAY, "".into()),
            Self::Failed(error) => (CloseCode::INTERNAL, error.to_string().into()),
        };
        Close { code, reason }
    }
}

/// Serves one session until it ends, and says how it ended.
///
/// `context` is what handlers get to know of the session. All handlers of the session are gone when this returns, and
/// also when its future is dropped.
pub async fn serve<S, P>(
    pipe: P,
    registry: Arc<Registry<S>>,
    context: S,
    control: Control,
    clock: Clock,
) -> SessionEnd
where
    S: Send + 'static,
    P: Pipe,
{
    let mut driver = Driver::new(pipe, &registry, context, &control, clock.clone());
    let end = poll_fn(|cx| driver.poll(cx)).await;
    driver.end_calls(&end);

    let close = end.close();
    let goodbye = poll_fn(|cx| {
        // What cannot be sent any more does not keep the pipe from being closed.
        if driver.poll_write(cx).is_pending() {
            return Poll::Pending;
        }
        let closed = ready!(driver.pipe().poll_close(cx, &close));
        Poll::Ready(closed)
    });
    tokio::select! {
        closed = goodbye => if let Err(error) = closed {
            tracing::trace!(%error, "goodbye failed");
        },
        () = clock.sleep(CLOSE_TIMEOUT) => tracing::trace!("goodbye timed out"),
    }
    end
}
