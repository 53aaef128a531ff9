//! The routes on a free port over a seeded store, a provider to ask, and time that a test drives.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::batch::last_used::LastUsed;
use crate::batch::metadata::MetadataBatcher;
use crate::batch::stats::StatsBatcher;
use crate::client_token::ClientToken;
use crate::clock::Clock;
pub(super) use crate::clock::testing::{driven, settle};
use crate::coordinator::PeerId;
use crate::http::agents::Bounds;
use crate::http::{
    ApiError, App, ConnectionInfo, Listener, NewClientSession, NewSession, Outbound, SessionHost,
    WebSocketPipe, router,
};
use crate::ids::{AgentId, AgentToken, UserId, WorkspaceId};
use crate::pubsub::Pubsub;
use crate::secret::Secret;
use crate::services::agent::{
    AgentConfig, AgentServices, AlertLimits, Collaborators, Heard, StoreAppearance,
};
use crate::services::external_auth::{ExternalAuth, Provider};
use crate::services::notifications::{Enqueuer, Methods};
use crate::services::patience::Patience;
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::derp_map::default_map;
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};
use crate::store::{Authenticated, Client, GitSshKey, Store, StoreError};

pub(super) const SEED: &str = EXAMPLE;

/// Connections at once that do not last.
pub(super) const ROOM: usize = 3;

struct Host {
    store: Arc<FaultyStore>,
    agents: Arc<AgentServices>,
    external_auth: ExternalAuth,
}

impl SessionHost for Host {
    fn heard(&self) -> Heard {
        self.agents.heard()
    }

    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.store.authenticate(token).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }

    fn begin(&self, _session: NewSession, _pipe: WebSocketPipe<TcpStream>) {}

    fn refused(&self, _error: &ApiError) {}

    async fn authenticate_client(&self, _token: &ClientToken) -> Result<Option<Client>, StoreError> {
        unreachable!("no agent asks for it")
    }

    async fn owns_agent(&self, _owner: UserId, _agent: AgentId) -> Result<bool, StoreError> {
        unreachable!("no agent asks for it")
    }

    fn connection_info(&self) -> ConnectionInfo {
        unreachable!("no agent asks for it")
    }

    fn resumed_peer(&self, _token: &str) -> Option<PeerId> {
        unreachable!("no agent asks for it")
    }

    fn begin_client(&self, _session: NewClientSession, _pipe: WebSocketPipe<TcpStream>) {
        unreachable!("no agent asks for it")
    }

    async fn git_ssh_key(&self, user: UserId) -> Result<GitSshKey, StoreError> {
        self.store.git_ssh_key(user).await
    }

    fn agents(&self) -> &AgentServices {
        &self.agents
    }

    fn external_auth(&self) -> &ExternalAuth {
        &self.external_auth
    }
}

/// The routes.
pub(super) struct Kit {
    pub(super) store: Arc<FaultyStore>,
    pub(super) pubsub: Pubsub,
    pub(super) app: Arc<AnyApp>,
    address: SocketAddr,
    token: String,
    stop: CancellationToken,
    /// Whether there is memory for what lasts.
    pub(super) has_memory: Arc<AtomicBool>,
}

/// The app, without naming its host.
pub(super) struct AnyApp(Arc<App<Host>>);

impl AnyApp {
    pub(super) async fn close(&self) {
        self.0.close().await;
    }

    /// What requests may have.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }
}

impl Kit {
    pub(super) async fn new() -> Self {
        Self::with(SEED, Vec::new()).await
    }

    /// Another seed and external providers.
    pub(super) async fn with(seed: &str, providers: Vec<Provider>) -> Self {
        let (store, agent) = FaultyStore::seeded(seed).await;
        let clock = Clock::driven(NOW);
        let pubsub = Pubsub::in_process();
        let dyn_store: Arc<dyn Store> = store.clone();
        let shared = || Arc::clone(&dyn_store);
        let access_url: Url = "https://drpcd.example.com".parse().unwrap();
        let patience = Patience::new(clock.clone(), Duration::from_mins(15));
        let methods = Methods {
            delivery: None,
            inbox: true,
        };
        let parts = Collaborators {
            store: shared(),
            clock: clock.clone(),
            pubsub: pubsub.clone(),
            patience: patience.clone(),
            stats: StatsBatcher::new(shared(), clock.clone()),
            last_used: LastUsed::new(shared(), clock.clone()),
            agent_metrics: None,
            build_durations: None,
            metadata: MetadataBatcher::new(shared(), pubsub.clone(), clock.clone()),
            notifications: Enqueuer::new(
                shared(),
                clock.clone(),
                pubsub.clone(),
                patience.clone(),
                methods,
                &access_url,
            ),
            boundary_usage: None,
            derp_maps: DerpMaps::fixed(default_map(&access_url)),
        };
        let config = AgentConfig {
            access_url: access_url.clone(),
            app_hostname: String::new(),
            stats_interval: Duration::from_secs(30),
            disable_direct_connections: false,
            derp_force_websockets: false,
            git_auth_configs: 0,
            workspace_usage: false,
            alert_limits: AlertLimits::default(),
        };
        let agents = AgentServices::new(parts, config, StoreAppearance::new(shared(), patience.clone()));
        let client = Arc::new(Outbound::default());
        let external_auth =
            ExternalAuth::new(shared(), clock.clone(), patience, client, access_url, providers);

        let has_memory = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&has_memory);
        let app = App::new(clock.clone(), 8, 0).with_memory_check(move || asked.load(Ordering::Relaxed));
        let app = Arc::new(app);
        app.open(Host {
            store: Arc::clone(&store),
            agents,
            external_auth,
        });
        let listener = Listener::bind("127.0.0.1:0").await.unwrap().with_room(ROOM);
        let (address, stop) = (listener.address(), CancellationToken::new());
        tokio::spawn(listener.run(router(Arc::clone(&app)), clock, stop.clone()));
        Self {
            store,
            pubsub,
            app: Arc::new(AnyApp(app)),
            address,
            token: agent.token.reveal().to_string(),
            stop,
            has_memory,
        }
    }

    pub(super) async fn get(&self, route: &str) -> Answer {
        self.send("GET", route, "").await
    }

    pub(super) async fn send(&self, method: &str, route: &str, body: &str) -> Answer {
        self.send_bytes(method, route, body.as_bytes()).await
    }

    pub(super) async fn send_bytes(&self, method: &str, route: &str, body: &[u8]) -> Answer {
        self.exchange(&self.token, method, route, body).await
    }

    /// With a token of one's own; none when it is empty.
    pub(super) async fn send_as(&self, token: &str, method: &str, route: &str, body: &str) -> Answer {
        self.exchange(token, method, route, body.as_bytes()).await
    }

    async fn exchange(&self, token: &str, method: &str, route: &str, body: &[u8]) -> Answer {
        let mut stream = self.begin(token, method, route, body).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Answer::parse(&String::from_utf8(answer).unwrap())
    }

    /// Sends a request without waiting for the answer.
    pub(super) async fn open(&self, route: &str) -> TcpStream {
        self.begin(&self.token, "GET", route, b"").await
    }

    /// Sends the head of a request whose body does not come.
    pub(super) async fn open_body(&self, method: &str, route: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} /api/v2/workspaceagents/me/{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Coder-Session-Token: {}\r\nContent-Length: {length}\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn begin(&self, token: &str, method: &str, route: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let token = if token.is_empty() {
            String::new()
        } else {
            format!("Coder-Session-Token: {token}\r\n")
        };
        let head = format!(
            "{method} /api/v2/workspaceagents/me/{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may refuse a body before it has read it.
        let _ = stream.write_all(body).await;
        stream
    }

    /// The rows of a statement.
    pub(super) async fn value(&self, sql: &str) -> String {
        self.store.query(sql).await.join(",")
    }

    /// The agent's id.
    pub(super) async fn agent(&self) -> String {
        let hex = self.value("SELECT id FROM workspace_agents").await;
        hex.parse::<uuid::Uuid>().unwrap().to_string()
    }

    /// The agent's workspace.
    pub(super) async fn workspace(&self) -> WorkspaceId {
        let id = self.value("SELECT id FROM workspaces").await;
        WorkspaceId(id.parse().unwrap())
    }

    /// How many statements have run.
    pub(super) fn statements(&self) -> u64 {
        self.store.statements().iter().map(|(_, count)| count).sum()
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {text:?}"));
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    pub(super) fn assert_json(&self, status: u16, body: &str) {
        let expected = format!("{body}\n");
        assert_eq!((self.status, self.body.as_str()), (status, expected.as_str()));
        assert!(
            self.head
                .contains("content-type: application/json; charset=utf-8")
        );
    }
}

/// Lets everything else run until `holds`.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

pub(super) fn away() -> StoreError {
    StoreError::Unavailable("database is locked".to_owned())
}

/// A provider that is not asked anything.
pub(super) fn provider(id: &str, kind: &str, regex: Option<&str>) -> Provider {
    Provider::new(id, kind, None, regex).unwrap()
}

/// A provider of type `kind` at `remote`.
pub(super) fn provider_at(remote: &Remote, kind: &str) -> Provider {
    Provider {
        client_id: "us".to_owned(),
        client_secret: Secret::new("our secret"),
        token_url: Some(remote.url.join("/token").unwrap()),
        validate_url: Some(remote.url.join("/user").unwrap()),
        ..provider("p", kind, None)
    }
}

/// The seed, with a link of the owner to the provider `p`.
pub(super) fn linked(access: &str, refresh: &str, expiry: Option<&str>) -> String {
    let expiry = expiry.map_or(String::new(), |expiry| format!(", oauth_expiry: {expiry}"));
    let link = format!(
        "{{ provider_id: p, oauth_access_token: {access}, oauth_refresh_token: {refresh}, oauth_extra: {{ team: t }}{expiry} }}"
    );
    SEED.replace(
        "email: ada@example.com }",
        &format!("email: ada@example.com, external_auth_links: [{link}] }}"),
    )
}

/// An external provider that answers what it is told to, and remembers what it was asked.
pub(super) struct Remote {
    url: Url,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, &'static str, String)>,
    asked: Vec<String>,
}

impl Remote {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            url: url.parse().unwrap(),
            script,
        }
    }

    /// The next answer: status, more headers each ending in `\r\n`, body.
    pub(super) fn will_answer(&self, status: u16, headers: &'static str, body: &str) {
        let mut script = self.script.lock().unwrap();
        script.answers.push_back((status, headers, body.to_owned()));
    }

    /// Takes what it was asked: per request the line, the header `authorization`, and the body.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }

    pub(super) fn times_asked(&self) -> usize {
        self.script.lock().unwrap().asked.len()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut request = Vec::new();
    let (head, body_start) = loop {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            break (text[..end].to_owned(), end + 4);
        }
    };
    let header = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.len() < body_start + length {
        stream.read_buf(&mut request).await.unwrap();
    }
    let body = String::from_utf8_lossy(&request[body_start..]).into_owned();
    let line = head
        .lines()
        .next()
        .unwrap()
        .trim_end_matches(" HTTP/1.1")
        .to_owned();
    let (status, headers, answer) = {
        let mut script = script.lock().unwrap();
        let asked = [line, header("authorization").unwrap_or_default(), body];
        script.asked.push(asked.join("|"));
        script
            .answers
            .pop_front()
            .unwrap_or((500, "", "out of answers".to_owned()))
    };
    let answer = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{answer}",
        answer.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}
