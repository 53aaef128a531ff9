//! A listener with the routes, and a host that knows two agents and only takes note of sessions.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::super::*;
use crate::clock::Timestamp;
use crate::ids::{
    AgentId, BuildId, OrganizationId, ResourceId, TemplateId, TemplateVersionId, UserId, WorkspaceId,
};
use crate::mux::pipe::Pipe as _;
use crate::services::agent::Heard;
use crate::store::{Agent, ApiKeyScope, Workspace};

pub(super) const ALICE: &str = "11111111-1111-4111-8111-111111111111";
pub(super) const BOB: &str = "22222222-2222-4222-8222-222222222222";
pub(super) const RPC: &str = "/api/v2/workspaceagents/me/rpc";

/// Longer than any answer takes; only a failing test waits that long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a host was told of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) agent: String,
    pub(super) api_version: String,
    pub(super) role: Option<String>,
}

pub(super) struct Host {
    pub(super) store: Mutex<Result<(), StoreError>>,
    pub(super) begun: mpsc::Sender<Begun>,
    pub(super) refused: mpsc::Sender<u16>,
    /// Of an agent's handshake, in order.
    pub(super) asked: Mutex<Vec<&'static str>>,
}

impl Host {
    fn state(&self) -> Result<(), StoreError> {
        self.store.lock().unwrap().clone()
    }

    /// Waits for the store, for ever if it `hangs`.
    async fn ask(&self) -> Result<(), StoreError> {
        let state = self.state();
        if state == Err(StoreError::Unavailable("hangs".to_owned())) {
            std::future::pending::<()>().await;
        }
        state
    }
}

impl SessionHost for Host {
    fn heard(&self) -> Heard {
        self.asked.lock().unwrap().push("heard");
        Heard::default()
    }

    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.asked.lock().unwrap().push("authenticate");
        self.ask().await?;
        let names = HashMap::from([(ALICE, "alice"), (BOB, "bob")]);
        Ok(names
            .get(token.reveal().to_string().as_str())
            .map(|name| authenticated(name)))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask().await
    }

    fn begin(&self, session: NewSession, mut pipe: WebSocketPipe<TcpStream>) {
        let NewSession {
            authenticated,
            api_version,
            role,
            place,
            ..
        } = session;
        let begun = Begun {
            agent: authenticated.agent.name,
            api_version,
            role,
        };
        self.begun.try_send(begun).unwrap();
        tokio::spawn(async move {
            while let Some(Ok(_)) = poll_fn(|cx| pipe.poll_recv(cx)).await {}
            drop(place);
        });
    }

    fn refused(&self, error: &ApiError) {
        self.refused.try_send(error.status().as_u16()).unwrap();
    }

    async fn authenticate_client(&self, _token: &ClientToken) -> Result<Option<Client>, StoreError> {
        self.ask().await?;
        Ok(None)
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

    async fn git_ssh_key(&self, _user: UserId) -> Result<GitSshKey, StoreError> {
        unreachable!("no handshake asks for it")
    }

    fn agents(&self) -> &AgentServices {
        unreachable!("no handshake asks for it")
    }

    fn external_auth(&self) -> &ExternalAuth {
        unreachable!("no handshake asks for it")
    }
}

fn authenticated(name: &str) -> Authenticated {
    let agent = Agent {
        // Of different lengths, the two that there are.
        id: AgentId(Uuid::from_u128(name.len() as u128)),
        parent_id: None,
        name: name.to_owned(),
        resource_id: ResourceId(Uuid::nil()),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        environment_variables: None,
        directory: String::new(),
        motd_file: String::new(),
        version: String::new(),
        api_version: String::new(),
        connection_timeout_seconds: 0,
        connection: crate::store::ConnectionTimes::default(),
        logs_length: 0,
        logs_overflowed: false,
        api_key_scope: ApiKeyScope::All,
    };
    let workspace = Workspace {
        id: WorkspaceId(Uuid::nil()),
        name: "dev".to_owned(),
        owner_id: UserId(Uuid::nil()),
        owner_username: "ada".to_owned(),
        organization_id: OrganizationId(Uuid::nil()),
        template_id: TemplateId(Uuid::nil()),
        template_name: "docker".to_owned(),
        autostart_schedule: None,
    };
    let (build_id, template_version_id) = (BuildId(Uuid::nil()), TemplateVersionId(Uuid::nil()));
    Authenticated {
        agent,
        workspace,
        build_id,
        template_version_id,
    }
}

/// A listener with the routes, and what the host was told.
pub(super) struct Fixture {
    pub(super) address: SocketAddr,
    pub(super) app: Arc<App<Host>>,
    pub(super) begun: mpsc::Receiver<Begun>,
    pub(super) refused: mpsc::Receiver<u16>,
    stop: CancellationToken,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::with_room(0).await
    }

    pub(super) async fn with_room(max_sessions: usize) -> Self {
        Self::starting(max_sessions).await.open()
    }

    /// With room for so many connections that are not sessions.
    pub(super) async fn with_connections(connections: usize) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        Self::listening(listener.with_room(connections), 0).open()
    }

    fn open(mut self) -> Self {
        let (begun, refused);
        (begun, self.begun) = mpsc::channel(16);
        (refused, self.refused) = mpsc::channel(16);
        self.app.open(Host {
            store: Mutex::new(Ok(())),
            begun,
            refused,
            asked: Mutex::default(),
        });
        self
    }

    /// Alive, and not open yet.
    pub(super) async fn starting(max_sessions: usize) -> Self {
        Self::listening(Listener::bind("127.0.0.1:0").await.unwrap(), max_sessions)
    }

    fn listening(listener: Listener, max_sessions: usize) -> Self {
        let clock = Clock::system();
        let app = Arc::new(App::new(clock.clone(), 8, max_sessions));
        let (address, stop) = (listener.address(), CancellationToken::new());
        tokio::spawn(listener.run(router(Arc::clone(&app)), clock, stop.clone()));
        let ((_, begun), (_, refused)) = (mpsc::channel(1), mpsc::channel(1));
        Self {
            address,
            app,
            begun,
            refused,
            stop,
        }
    }

    pub(super) fn store_answers(&self, state: Result<(), StoreError>) {
        *self.app.host().unwrap().store.lock().unwrap() = state;
    }

    /// Sends a request and reads the answer up to its end; of an upgrade, up to the end of its head.
    pub(super) async fn exchange(&self, request: &str) -> Answer {
        self.exchange_open(request).await.0
    }

    pub(super) async fn exchange_open(&self, request: &str) -> (Answer, TcpStream) {
        tokio::time::timeout(PATIENCE, async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let upgraded =
                |answer: &[u8]| answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n");
            while !upgraded(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {}
            (Answer::parse(&String::from_utf8(answer).unwrap()), stream)
        })
        .await
        .unwrap()
    }

    /// `GET target`, on a connection that the answer closes.
    pub(super) async fn get(&self, target: &str) -> Answer {
        self.exchange(&format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// A handshake with more headers, each ending in `\r\n`.
    pub(super) async fn dial(&self, query: &str, headers: &str) -> Answer {
        self.exchange(&handshake(query, headers)).await
    }

    pub(super) async fn next_session(&mut self) -> Begun {
        tokio::time::timeout(PATIENCE, self.begun.recv())
            .await
            .unwrap()
            .unwrap()
    }

    pub(super) fn assert_no_session(&mut self) {
        assert!(self.begun.try_recv().is_err());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn handshake(query: &str, headers: &str) -> String {
    // The key is RFC 6455's example.
    format!(
        "GET {RPC}{query} HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

pub(super) fn with_token(token: &str) -> String {
    format!("Coder-Session-Token: {token}\r\n")
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        });
        Self {
            status,
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    #[track_caller]
    pub(super) fn assert_json(&self, status: u16, body: &str) {
        assert_eq!(
            (self.status, self.body.as_str()),
            (status, format!("{body}\n").as_str())
        );
        assert_eq!(
            self.header("content-type"),
            Some("application/json; charset=utf-8")
        );
        assert_eq!(self.header("x-coder-build-version"), Some(BUILD_VERSION));
    }

    #[track_caller]
    pub(super) fn assert_plain(&self, status: u16, body: &str) {
        assert_eq!(
            (self.status, self.body.as_str()),
            (status, format!("{body}\n").as_str())
        );
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
    }
}
