//! The scripted test service on drpcd's own stack; `interop/internal/script` is the same on the Go libraries. What a
//! request says decides what happens, so that answers of both can be compared.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use drpcd::clock::Clock;
use drpcd::http::WebSocketPipe;
use drpcd::mux::{
    CloseCause, Control, Inbound, Interceptor, Metadata, Method, Outbound, Registry, SessionEnd, Status,
    serve,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::script_answers;

type Text = String;

/// What a session's handlers went through.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    notes: Vec<String>,
    /// The session that the notes are of.
    control: Option<Control>,
    /// Metadata of the call that is about to start.
    metadata: String,
}

impl Notes {
    fn note(&self, note: impl Into<String>) {
        self.0.lock().unwrap().notes.push(note.into());
    }

    fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap().notes).join("\n")
    }

    /// Notes `text` unless the handler that holds the guard gets to its end.
    fn unless_done(&self, text: &'static str) -> Unless {
        Unless {
            notes: self.clone(),
            text,
            done: false,
        }
    }
}

struct Unless {
    notes: Notes,
    text: &'static str,
    done: bool,
}

impl Unless {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Unless {
    fn drop(&mut self) {
        if !self.done {
            self.notes.note(self.text);
        }
    }
}

/// Keeps the metadata of a call for its handler, which starts right after.
struct KeepMetadata;

impl Interceptor<Notes> for KeepMetadata {
    fn admit(&self, notes: &Notes, _: &Method<Notes>, metadata: &Metadata) -> Result<(), Status> {
        let pairs: BTreeMap<_, _> = metadata.pairs().collect();
        let pair = |(key, value)| {
            format!(
                "{}={}",
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(value)
            )
        };
        notes.0.lock().unwrap().metadata = pairs.into_iter().map(pair).collect::<Vec<_>>().join(",");
        Ok(())
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_default()
}

fn failure(request: &str) -> Status {
    let (code, text) = request.split_once(' ').unwrap_or((request, ""));
    Status::new(number(code) as u64, text.to_owned())
}

async fn count(out: &mut Outbound<Text>, request: &str) -> Result<(), Status> {
    let (n, size) = request.split_once(' ').unwrap_or((request, ""));
    let size = number(size);
    for i in 0..number(n) {
        out.send(&format!("{i:0>size$}")).await?;
    }
    Ok(())
}

/// The methods.
pub fn registry() -> Registry<Notes> {
    let mut registry = Registry::new();
    registry.intercept(KeepMetadata);
    registry.unary("/t/Echo", |_: &Notes, request: Text| async move { Ok(request) });
    registry.unary("/t/Fail", |_: &Notes, request: Text| async move {
        Err::<Text, _>(failure(&request))
    });
    registry.unary("/t/FailLong", |_: &Notes, request: Text| async move {
        Err::<Text, _>(Status::message("e".repeat(number(&request))))
    });
    registry.unary("/t/Panic", |_: &Notes, request: Text| async move {
        assert!(request == "\0", "as asked");
        Ok(request)
    });
    registry.unary("/t/Unimplemented", |_: &Notes, _: Text| async move {
        Err::<Text, _>(Status::unimplemented())
    });
    registry.unary("/t/Sleep", |notes: &Notes, request: Text| {
        notes.note("Sleep began");
        let guard = notes.unless_done("Sleep cancelled");
        async move {
            tokio::time::sleep(Duration::from_millis(number(&request) as u64)).await;
            guard.done();
            Ok("slept".to_owned())
        }
    });
    registry.unary("/t/Repeat", |_: &Notes, request: Text| async move {
        Ok("x".repeat(number(&request)))
    });
    // A reply without a message is the end of a stream without one.
    registry.server_stream("/t/Nothing", |_: &Notes, _: Text, _: Outbound<Text>| async {
        Ok(())
    });
    registry.unary("/t/Metadata", |notes: &Notes, _: Text| {
        let metadata = notes.0.lock().unwrap().metadata.clone();
        async move { Ok(metadata) }
    });
    registry.unary("/t/Notes", |notes: &Notes, _: Text| {
        let notes = notes.clone();
        async move { Ok(notes.take()) }
    });
    registry.unary("/t/Name", |notes: &Notes, request: Text| {
        named().lock().unwrap().insert(request, notes.clone());
        async { Ok(String::new()) }
    });
    registry.unary("/t/NotesOf", |_: &Notes, request: Text| {
        let notes = named().lock().unwrap().get(&request).cloned();
        async move { Ok(notes.map(|notes| notes.take()).unwrap_or_default()) }
    });
    registry.unary("/t/Shutdown", |notes: &Notes, _: Text| {
        let control = notes.0.lock().unwrap().control.clone();
        async move {
            control.unwrap().close(CloseCause::Draining, "as asked");
            pending::<Result<Text, _>>().await
        }
    });
    streams(&mut registry);
    script_answers::register(&mut registry);
    registry
}

/// Notes of sessions by the names that they were given.
fn named() -> &'static Mutex<HashMap<String, Notes>> {
    static NAMED: OnceLock<Mutex<HashMap<String, Notes>>> = OnceLock::new();
    NAMED.get_or_init(Mutex::default)
}

fn streams(registry: &mut Registry<Notes>) {
    registry.server_stream(
        "/t/Count",
        |notes: &Notes, request: Text, mut out: Outbound<Text>| {
            let guard = notes.unless_done("Count ended");
            async move {
                let counted = count(&mut out, &request).await;
                drop(guard);
                counted
            }
        },
    );
    registry.server_stream(
        "/t/CountFail",
        |_: &Notes, request: Text, mut out: Outbound<Text>| async move {
            let (n, rest) = request.split_once(' ').unwrap_or((&request, ""));
            count(&mut out, n).await?;
            Err(failure(rest))
        },
    );
    registry.server_stream(
        "/t/CountClose",
        |_: &Notes, request: Text, mut out: Outbound<Text>| async move {
            count(&mut out, &request).await?;
            out.close();
            Ok(())
        },
    );
    registry.server_stream("/t/Silent", |notes: &Notes, _: Text, out: Outbound<Text>| {
        notes.note("Silent began");
        let guard = notes.unless_done("Silent cancelled");
        async move {
            pending::<()>().await;
            drop((guard, out));
            Ok(())
        }
    });
    registry.client_stream("/t/Join", |notes: &Notes, requests: Inbound<Text>| {
        join(notes.clone(), requests, Duration::ZERO)
    });
    registry.client_stream("/t/JoinLate", |notes: &Notes, requests: Inbound<Text>| {
        join(notes.clone(), requests, Duration::from_millis(200))
    });
    registry.bidi(
        "/t/Chat",
        |notes: &Notes, requests: Inbound<Text>, replies: Outbound<Text>| {
            chat(notes.clone(), requests, replies)
        },
    );
    registry.bidi(
        "/t/Leave",
        |_: &Notes, _: Inbound<Text>, _: Outbound<Text>| async { Ok(()) },
    );
}

async fn join(notes: Notes, mut requests: Inbound<Text>, late: Duration) -> Result<Text, Status> {
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    let mut all = String::new();
    loop {
        match requests.next().await {
            Ok(Some(request)) => all += &request,
            Ok(None) => return Ok(all),
            Err(status) => {
                notes.note(format!("Join recv: {} {status}", status.code()));
                return Err(status);
            }
        }
    }
}

/// Does what each message says; what is no command is sent back.
async fn chat(notes: Notes, mut requests: Inbound<Text>, mut replies: Outbound<Text>) -> Result<(), Status> {
    loop {
        let request = match requests.next().await {
            Ok(Some(request)) => request,
            Ok(None) => {
                notes.note("Chat eof");
                return Ok(());
            }
            Err(status) => {
                notes.note(format!("Chat recv: {} {status}", status.code()));
                return Err(status);
            }
        };
        let (command, rest) = request.split_once(' ').unwrap_or((&request, ""));
        let sent = match command {
            "close" => {
                replies.close();
                Ok(())
            }
            "half-close" => {
                replies.close_send();
                Ok(())
            }
            "fail" => return Err(failure(rest)),
            "leave" => return Ok(()),
            "sleep" => {
                notes.note("Chat sleeps");
                let _guard = notes.unless_done("Chat cancelled");
                pending::<()>().await;
                Ok(())
            }
            "count" => count(&mut replies, rest).await,
            _ => {
                notes.note(format!("Chat got {request}"));
                let sent = replies.send(&request).await;
                if sent.is_ok() {
                    notes.note(format!("Chat sent {request}"));
                }
                sent
            }
        };
        if let Err(status) = sent {
            notes.note(format!("Chat send: {status}"));
            return Err(status);
        }
    }
}

/// Puts what is logged about streams among the notes.
struct LogNotes(Notes);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for LogNotes {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Error(String);
        impl Visit for Error {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "error" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if *event.metadata().level() <= tracing::Level::DEBUG
            && event.metadata().target().starts_with("drpcd")
        {
            let mut error = Error(String::new());
            event.record(&mut error);
            self.0.note(format!("log: {}", error.0));
        }
    }
}

/// Serves the script on a free port of this machine until the process ends; its address.
pub fn serve_ours() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let registry = Arc::new(registry());
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(session(stream, Arc::clone(&registry)));
            }
        });
    });
    url
}

async fn session(mut stream: TcpStream, registry: Arc<Registry<Notes>>) {
    let mut head = BytesMut::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let request = String::from_utf8_lossy(&head.split_to(end)).into_owned();
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then(|| value.trim().to_owned())
    });
    let accept = tungstenite::handshake::derive_accept_key(key.unwrap_or_default().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    if stream.write_all(answer.as_bytes()).await.is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let notes = Notes::default();
    let clock = Clock::system();
    let control = Control::new(&clock);
    notes.0.lock().unwrap().control = Some(control.clone());
    let subscriber = tracing_subscriber::registry().with(LogNotes(notes.clone()));
    let served = serve(
        WebSocketPipe::new(stream, head),
        registry,
        notes.clone(),
        control,
        clock,
    );
    let end = tracing::instrument::WithSubscriber::with_subscriber(served, subscriber).await;
    notes.note(match end {
        SessionEnd::Failed(_) => "session failed",
        _ => "session ended",
    });
}

/// A running Go server of the script.
struct GoServer {
    url: String,
    _child: Mutex<Child>,
}

/// The Go server of the script, one for the process; `None` where there is no Go. It ends with its standard input.
pub fn serve_go() -> Option<&'static str> {
    static SERVER: OnceLock<Option<GoServer>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let mut child = std::process::Command::new(super::go::go_program()?)
            .arg("script-server")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Some(GoServer {
            url,
            _child: Mutex::new(child),
        })
    });
    server.as_ref().map(|server| server.url.as_str())
}
