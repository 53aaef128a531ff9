//! Sessions, their ticks, and what of it reaches the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{MonitorConfig, Role, SessionGuard, SessionInfo, Sessions, monitor};
use crate::batch::connections::{ConnectionTimes, Subject};
use crate::client_token::ClientTokenId;
use crate::clock::Clock;
use crate::ids::ReplicaId;
use crate::mux::{CloseCause, Control};
use crate::pubsub::{Pubsub, Subscription, WorkspaceEvent};
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};
use crate::store::{AgentStatus, Store, StoreError};

const TICK: Duration = Duration::from_secs(15);

struct Fixture {
    store: Arc<FaultyStore>,
    clock: Clock,
    times: ConnectionTimes,
    sessions: Sessions,
    info: SessionInfo,
    events: Subscription,
}

impl Fixture {
    async fn new() -> Self {
        let (store, agent) = FaultyStore::seeded(EXAMPLE).await;
        let found = store.authenticate(&agent.token).await.unwrap().unwrap();
        let subject = Subject {
            agent_id: found.agent.id,
            workspace_id: found.workspace.id,
            owner_id: found.workspace.owner_id,
        };
        let info = SessionInfo {
            subject,
            build_id: found.build_id,
            role: Role::Agent,
        };
        let (clock, pubsub) = (Clock::driven(NOW), Pubsub::in_process());
        let events = pubsub.subscribe(&WorkspaceEvent::channel(subject.owner_id));
        let dyn_store: Arc<dyn Store> = store.clone();
        let config = MonitorConfig::default();
        let (replica, tick) = (ReplicaId::random(), config.update_frequency);
        let times = ConnectionTimes::new(Arc::clone(&dyn_store), pubsub, clock.clone(), replica, tick);
        let sessions = Sessions::new(clock.clone(), dyn_store, times.clone(), config);
        Self {
            store,
            clock,
            times,
            sessions,
            info,
            events,
        }
    }

    fn connect(&self) -> (SessionGuard, Control) {
        let control = Control::new(&self.clock);
        (self.sessions.add(self.info, control.clone()), control)
    }

    async fn tick(&self) {
        monitor::check_liveness(&self.sessions.0, false);
        monitor::check_builds(&self.sessions.0, &mut false).await;
    }

    /// Events that have come.
    fn events(&mut self) -> usize {
        std::iter::from_fn(|| self.events.try_next()).count()
    }

    /// Seconds after the start of first, last and disconnect time.
    async fn row(&self) -> String {
        let second = |column: &str| format!("({column} - {}) / 1000000", NOW.as_micros());
        let [first, last, gone] = ["first_connected_at", "last_connected_at", "disconnected_at"].map(second);
        let sql = format!("SELECT {first}, {last}, {gone} FROM workspace_agents");
        self.store.query(&sql).await.remove(0)
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

fn away() -> StoreError {
    StoreError::Unavailable("disk full".into())
}

#[tokio::test(start_paused = true)]
async fn conn_028_030_and_032_one_event_at_each_end_and_a_time_per_tick() {
    let mut fixture = Fixture::new().await;
    let (guard, control) = fixture.connect();
    fixture.times.flush().await.unwrap();
    assert_eq!(
        (fixture.row().await.as_str(), fixture.events()),
        ("0 0 -", 1),
        "conn_028"
    );
    let before = fixture.store.calls("record_heartbeats");
    for last in [15, 30, 45] {
        pass(TICK).await;
        assert!(control.last_received() < fixture.clock.monotonic());
        // A pong, as far as the monitor is concerned.
        control.hear(&fixture.clock);
        fixture.tick().await;
        fixture.times.flush().await.unwrap();
        assert_eq!(fixture.row().await, format!("0 {last} -"), "conn_030");
    }
    assert_eq!(
        (
            fixture.store.calls("record_heartbeats") - before,
            fixture.events()
        ),
        (3, 0)
    );
    drop(guard);
    fixture.times.flush().await.unwrap();
    assert_eq!(
        (fixture.row().await.as_str(), fixture.events()),
        ("0 45 45", 1),
        "conn_032"
    );
    assert!(fixture.sessions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn conn_029_a_reconnect_leaves_first_and_disconnect_times() {
    let mut fixture = Fixture::new().await;
    drop(fixture.connect());
    pass(TICK).await;
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("0 0 0", 2));
    let (_guard, _) = fixture.connect();
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("0 15 0", 1));
}

#[tokio::test(start_paused = true)]
async fn conn_031_silence_is_pinged_after_15_s_and_ends_the_session_after_more_than_30() {
    let fixture = Fixture::new().await;
    let (_guard, control) = fixture.connect();
    pass(Duration::from_millis(14_999)).await;
    fixture.tick().await;
    assert!(!control.wants_ping());
    pass(Duration::from_millis(1)).await;
    fixture.tick().await;
    assert!(control.wants_ping());
    pass(TICK).await;
    fixture.tick().await;
    assert_eq!(control.requested_close(), None, "30 s are not more than 30 s");
    pass(Duration::from_millis(1)).await;
    fixture.tick().await;
    assert_eq!(
        control.requested_close(),
        Some((CloseCause::Requested, "ping timeout".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_is_closed_who_was_not_asked() {
    let fixture = Fixture::new().await;
    let (_guard, control) = fixture.connect();
    let tick_after = async |millis| {
        pass(Duration::from_millis(millis)).await;
        fixture.tick().await;
    };
    // Heard just after the tick before, and no silence yet at the next.
    tick_after(14_999).await;
    assert!(!control.wants_ping());
    tick_after(15_002).await;
    assert_eq!(control.requested_close(), None);
    assert!(control.wants_ping());
    // Who answers stays, who does not has been asked now.
    control.answered_ping();
    control.hear(&fixture.clock);
    for closed in [false, true] {
        tick_after(15_001).await;
        assert_eq!(control.requested_close().is_some(), closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_delays_no_ping() {
    let fixture = Fixture::new().await;
    let (_guard, control) = fixture.connect();
    fixture.store.stall("outdated_builds");
    let runs = tokio::time::timeout(4 * TICK, async {
        let hear = async {
            loop {
                pass(Duration::from_millis(100)).await;
                if control.wants_ping() {
                    control.hear(&fixture.clock);
                    control.answered_ping();
                }
            }
        };
        tokio::join!(fixture.sessions.run(), hear)
    });
    assert!(runs.await.is_err(), "it ticks forever");
    assert_eq!(fixture.store.calls("outdated_builds"), 1);
    assert_eq!(control.requested_close(), None);
    let silence = fixture.clock.monotonic() - control.last_received();
    assert!(silence < 2 * TICK, "{silence:?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_silent_while_the_server_did_not_run_is_asked_first() {
    let fixture = Fixture::new().await;
    let (_guard, control) = fixture.connect();
    let mut run = Box::pin(fixture.sessions.run());
    assert!(futures_util::poll!(&mut run).is_pending());
    pass(10 * TICK).await;
    assert!(futures_util::poll!(&mut run).is_pending());
    assert!(control.wants_ping());
    assert_eq!(control.requested_close(), None);
    pass(TICK).await;
    assert!(futures_util::poll!(&mut run).is_pending());
    assert_eq!(
        control.requested_close(),
        Some((CloseCause::Requested, "ping timeout".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn conn_033_a_session_ends_when_its_build_may_have_none_and_stays_while_it_is_being_stopped() {
    let fixture = Fixture::new().await;
    let (_guard, control) = fixture.connect();
    let job = |id: u8, completed: &str| {
        format!(
            "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, created_at, updated_at, started_at,
                 completed_at, type)
             SELECT x'{id:032x}', organization_id, initiator_id, 1, 1, 1, {completed}, 'workspace_build' FROM provisioner_jobs LIMIT 1"
        )
    };
    fixture.store.query(&job(2, "NULL")).await;
    let build = "INSERT INTO workspace_builds (id, created_at, updated_at, workspace_id, template_version_id,
             build_number, transition, initiator_id, job_id)
         SELECT x'00000000000000000000000000000003', 1, 1, workspace_id, template_version_id, 2, 'stop', initiator_id,
             x'00000000000000000000000000000002' FROM workspace_builds";
    fixture.store.query(build).await;
    fixture.tick().await;
    assert_eq!(control.requested_close(), None, "the stop job is running");
    fixture
        .store
        .query("UPDATE provisioner_jobs SET completed_at = 2 WHERE completed_at IS NULL")
        .await;
    fixture.tick().await;
    assert_eq!(
        control.requested_close(),
        Some((CloseCause::Requested, "build is outdated".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn conn_016_a_helper_has_no_times_no_events_and_no_build_check() {
    let mut fixture = Fixture::new().await;
    fixture.info.role = Role::from_query(Some("logstream-kube"));
    let (guard, control) = fixture.connect();
    fixture.store.query("UPDATE workspaces SET deleted = 1").await;
    fixture.tick().await;
    drop(guard);
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("- - -", 0));
    assert_eq!(control.requested_close(), None);
    assert_eq!(fixture.store.calls("outdated_builds"), 0);
}

#[tokio::test(start_paused = true)]
async fn conn_034_a_store_that_is_away_ends_no_session_and_gets_the_newest_times() {
    let mut fixture = Fixture::new().await;
    let (guard, control) = fixture.connect();
    fixture.times.flush().await.unwrap();
    fixture.events();
    for method in ["record_heartbeats", "record_disconnects", "outdated_builds"] {
        fixture.store.fail(method, away());
    }
    for _ in 0..3 {
        pass(TICK).await;
        control.hear(&fixture.clock);
        fixture.tick().await;
        assert_eq!(fixture.times.flush().await, Err(away()));
    }
    assert_eq!(control.requested_close(), None);
    assert_eq!(fixture.row().await, "0 0 -");
    for method in ["record_heartbeats", "outdated_builds"] {
        fixture.store.mend(method);
    }
    fixture.times.flush().await.unwrap();
    assert_eq!(fixture.row().await, "0 45 -", "the newest tick is written");

    drop(guard);
    assert_eq!(fixture.times.flush().await, Err(away()));
    assert_eq!(fixture.events(), 0, "the event comes after the write");
    fixture.store.mend("record_disconnects");
    pass(TICK).await;
    fixture.times.flush().await.unwrap();
    assert_eq!(
        (fixture.row().await.as_str(), fixture.events()),
        ("0 45 45", 1),
        "the time of the end"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_no_session_and_leaves_its_times_in_order() {
    const HOUR: i64 = 3_600_000_000;
    for jump in [HOUR, -HOUR, 24 * HOUR, -24 * HOUR] {
        let fixture = Fixture::new().await;
        let (first, _) = fixture.connect();
        fixture.times.flush().await.unwrap();
        pass(TICK).await;
        drop(first);
        fixture.times.flush().await.unwrap();
        let (guard, control) = fixture.connect();
        fixture.times.flush().await.unwrap();
        for jump in [jump, 0, -jump, 0] {
            fixture.clock.jump(jump);
            pass(TICK).await;
            control.hear(&fixture.clock);
            fixture.tick().await;
            fixture.times.flush().await.unwrap();
            assert_eq!(control.requested_close(), None);
            let row = fixture.store.agent(fixture.info.subject.agent_id).await.unwrap();
            let times = &row.connection;
            assert!(
                times.first_connected_at <= times.last_connected_at,
                "{jump}: {times:?}"
            );
            assert!(
                times.disconnected_at < times.last_connected_at,
                "{jump}: {times:?}"
            );
            let status = row.status(fixture.clock.now(), 2 * TICK);
            assert_eq!(status, AgentStatus::Connected, "{jump}: {times:?}");
        }
        drop(guard);
        fixture.times.flush().await.unwrap();
        let row = fixture.store.agent(fixture.info.subject.agent_id).await.unwrap();
        let status = row.status(fixture.clock.now(), 2 * TICK);
        assert!(
            matches!(status, AgentStatus::Disconnected { .. }),
            "{jump}: {status:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn conn_036_the_end_of_an_older_session_does_not_disconnect_a_newer_one() {
    let mut fixture = Fixture::new().await;
    let (old, _) = fixture.connect();
    let (new, _) = fixture.connect();
    pass(TICK).await;
    drop(old);
    fixture.times.flush().await.unwrap();
    // The two that began are told of as one.
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("0 0 -", 2));
    drop(new);
    fixture.times.flush().await.unwrap();
    assert_eq!(fixture.row().await, "0 0 15");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_and_goes_while_the_store_is_away_takes_the_room_of_one_connect_and_one_end() {
    let mut fixture = Fixture::new().await;
    for method in ["record_connects", "record_disconnects"] {
        fixture.store.fail(method, away());
    }
    for flap in 0..1_000 {
        drop(fixture.connect());
        if flap % 100 == 0 {
            assert_eq!(fixture.times.flush().await, Err(away()));
        }
        assert_eq!(fixture.times.queued(), (2, 2), "{flap}");
    }
    let (guard, _) = fixture.connect();
    assert_eq!(fixture.times.queued(), (1, 2));
    for method in ["record_connects", "record_disconnects"] {
        fixture.store.mend(method);
    }
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("0 0 -", 2));
    assert_eq!(fixture.times.queued(), (0, 0));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn an_end_drops_the_heartbeat_that_waits_and_a_return_drops_the_end() {
    let fixture = Fixture::new().await;
    let (guard, control) = fixture.connect();
    fixture.times.flush().await.unwrap();
    pass(TICK).await;
    control.hear(&fixture.clock);
    fixture.tick().await;
    drop(guard);
    fixture.times.flush().await.unwrap();
    assert_eq!(fixture.row().await, "0 0 15");

    let (guard, _) = fixture.connect();
    drop(guard);
    let (_guard, _) = fixture.connect();
    pass(TICK).await;
    fixture.times.flush().await.unwrap();
    assert_eq!(
        fixture.row().await,
        "0 15 15",
        "a connect of the same moment is one microsecond later"
    );
}

#[tokio::test(start_paused = true)]
async fn draining_closes_all_sessions_spread_over_the_time_and_waits_for_them() {
    let fixture = Fixture::new().await;
    let connected: Vec<_> = (0..20).map(|_| fixture.connect()).collect();
    let controls: Vec<_> = connected.iter().map(|(_, control)| control.clone()).collect();
    let sessions = fixture.sessions.clone();
    let start = fixture.clock.monotonic();
    let drained = tokio::spawn(async move { sessions.drain(Duration::from_secs(10)).await });
    let closed = || {
        controls
            .iter()
            .filter(|control| control.requested_close().is_some())
            .count()
    };
    // One each half second, looked at between two.
    tokio::time::sleep(Duration::from_millis(250)).await;
    for expected in 1..=20 {
        assert_eq!(closed(), expected);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!drained.is_finished());
    drop(connected);
    drained.await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(10));
}

fn token(id: &str) -> ClientTokenId {
    ClientTokenId::parse(id).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_clients_session_is_only_watched_for_liveness() {
    let mut fixture = Fixture::new().await;
    let control = Control::new(&fixture.clock);
    let guard = fixture.sessions.add_client(token("abcdefghij"), control.clone());
    pass(TICK).await;
    fixture.tick().await;
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("- - -", 0));
    assert_eq!(fixture.store.calls("outdated_builds"), 0);
    assert!(control.requested_close().is_none());
    pass(TICK + Duration::from_secs(1)).await;
    fixture.tick().await;
    assert!(control.requested_close().is_some(), "silent for more than 30 s");
    drop(guard);
    fixture.times.flush().await.unwrap();
    assert_eq!((fixture.row().await.as_str(), fixture.events()), ("- - -", 0));
    assert!(fixture.sessions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_closes_the_tokens_sessions_also_one_that_is_about_to_begin() {
    let fixture = Fixture::new().await;
    let (revoked, kept) = (Control::new(&fixture.clock), Control::new(&fixture.clock));
    let _sessions = [
        fixture.sessions.add_client(token("abcdefghij"), revoked.clone()),
        fixture.sessions.add_client(token("0123456789"), kept.clone()),
    ];
    let (_agent, agents) = fixture.connect();
    fixture.sessions.revoke(token("abcdefghij"));
    let closing = |control: &Control| control.requested_close().is_some();
    assert!(closing(&revoked) && !closing(&kept) && !closing(&agents));
    let late = Control::new(&fixture.clock);
    let _late = fixture.sessions.add_client(token("abcdefghij"), late.clone());
    assert!(closing(&late));
    assert!(!closing(&kept) && !closing(&agents));
    let both = HashSet::from([token("abcdefghij"), token("0123456789")]);
    assert_eq!(fixture.sessions.client_tokens(), both);
}
