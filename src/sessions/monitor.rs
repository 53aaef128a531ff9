//! One tick for all sessions.

use std::collections::HashSet;

use super::{Holder, Inner, Session};
use crate::ids::BuildId;
use crate::mux::CloseCause;

/// Builds asked for in one statement of the build check.
const BUILDS_PER_CHECK: usize = 1_000;

/// Why a silent session is closed; the original's words.
const PING_TIMEOUT: &str = "ping timeout";

/// Why a session of an old build is closed; the original's words.
const BUILD_OUTDATED: &str = "build is outdated";

/// Ticks for liveness and for builds, apart: a store that takes its time must not make anybody look silent.
pub(super) async fn run(sessions: &Inner) {
    tokio::join!(watch_liveness(sessions), watch_builds(sessions));
}

async fn watch_liveness(sessions: &Inner) {
    let mut ticks = sessions.clock.interval(sessions.config.update_frequency);
    let mut last = sessions.clock.monotonic();
    loop {
        ticks.tick().await;
        let now = sessions.clock.monotonic();
        // A process that was stopped for a while has not listened: what looks silent is asked before it is judged.
        let late = now.saturating_duration_since(last) >= sessions.config.update_frequency.mul_f64(1.5);
        last = now;
        check_liveness(sessions, late);
    }
}

async fn watch_builds(sessions: &Inner) {
    let mut ticks = sessions.clock.interval(sessions.config.update_frequency);
    let mut failing = false;
    loop {
        ticks.tick().await;
        check_builds(sessions, &mut failing).await;
    }
}

/// Pings who is silent, closes who has been silent for too long unless the tick is `late`, and notes that the others live.
///
/// Any byte counts as a sign of life; an idle Go peer answers a ping within a millisecond. Nobody is closed who was not asked
/// since it was last heard: what came just after a tick is not yet silence at the next, and too long a one after that.
pub(super) fn check_liveness(sessions: &Inner, late: bool) {
    let now = sessions.clock.monotonic();
    let mut live = sessions.snapshot();
    live.retain(|session| {
        let silence = now.saturating_duration_since(session.control.last_received());
        if silence > sessions.config.inactive_timeout && session.control.is_asked() && !late {
            match session.holder {
                Holder::Agent(info) => {
                    tracing::warn!(agent_id = %info.subject.agent_id, "connection to agent timed out");
                }
                Holder::Client(token) => tracing::info!(%token, "connection to client timed out"),
            }
            session.control.close(CloseCause::Requested, PING_TIMEOUT);
            return false;
        }
        if silence >= sessions.config.update_frequency {
            session.control.ping();
        }
        true
    });
    let agents = live.iter().filter_map(Session::agent);
    sessions
        .times
        .heartbeat(agents.map(|info| info.subject.agent_id).collect());
}

/// Closes the sessions whose build may no longer have one, by the rule of authentication. `failing` is whether the last
/// check failed.
pub(super) async fn check_builds(sessions: &Inner, failing: &mut bool) {
    let live = sessions.snapshot();
    let builds: HashSet<BuildId> = live
        .iter()
        .filter_map(Session::agent)
        .map(|info| info.build_id)
        .collect();
    let builds: Vec<_> = builds.into_iter().collect();
    let mut outdated = HashSet::new();
    for chunk in builds.chunks(BUILDS_PER_CHECK) {
        match sessions.store.outdated_builds(chunk).await {
            Ok(found) => outdated.extend(found),
            Err(error) => {
                if !std::mem::replace(failing, true) {
                    tracing::warn!(%error, "failed to check for outdated builds");
                }
                return;
            }
        }
    }
    *failing = false;
    for session in &live {
        let Some(info) = session.agent().filter(|info| outdated.contains(&info.build_id)) else {
            continue;
        };
        tracing::info!(
            agent_id = %info.subject.agent_id,
            workspace_id = %info.subject.workspace_id,
            "disconnected possibly outdated agent"
        );
        session.control.close(CloseCause::Requested, BUILD_OUTDATED);
    }
}
