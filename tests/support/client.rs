//! Our own client as an agent, or as a user's program, over an independent WebSocket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use drpcd::mux::Client;
use drpcd::mux::pipe::{Close, MAX_MESSAGE, Pipe, PipeError};
use drpcd::proto::agent::AgentClient;
use drpcd::proto::tailnet::TailnetClient;
use futures_util::{Sink, Stream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SeededAgent;

/// Messages of an independent WebSocket as a pipe.
struct Socket(WebSocketStream<TcpStream>);

fn broken(error: Error) -> PipeError {
    match error {
        Error::Io(error) => error.into(),
        other => std::io::Error::other(other).into(),
    }
}

impl Pipe for Socket {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll_next(cx)) {
            Some(Ok(Message::Binary(bytes))) => Some(Ok(bytes)),
            Some(Ok(Message::Close(_))) | None => None,
            // The library answers pings by itself.
            Some(Ok(_)) => Some(Ok(Bytes::new())),
            Some(Err(error)) => Some(Err(broken(error))),
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>> {
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut socket = Pin::new(&mut self.0);
        ready!(socket.as_mut().poll_ready(cx)).map_err(broken)?;
        let message = out.split_to(out.len().min(MAX_MESSAGE)).freeze();
        Poll::Ready(socket.start_send(Message::Binary(message)).map_err(broken))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(broken)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &Close) -> Poll<Result<(), PipeError>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(broken)
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<Result<bool, PipeError>> {
        Poll::Ready(Ok(false))
    }
}

/// Dials as an agent does.
pub async fn agent(agent: &SeededAgent) -> Result<AgentClient, Error> {
    dial(agent, "agent").await
}

/// Dials with an agent's token, as whoever `role` says; the session lives in a task until it ends.
pub async fn dial(agent: &SeededAgent, role: &str) -> Result<AgentClient, Error> {
    let target = format!("{}?version=2.8&role={role}", super::http::RPC);
    let client = session(&agent.url, &target, &agent.token).await?;
    Ok(AgentClient::new(client))
}

/// Dials with a client's token, as a client of all agents of its user.
pub async fn of_user(url: &str, token: &str) -> Result<TailnetClient, Error> {
    let client = session(url, "/api/v2/tailnet?version=2.8", token).await?;
    Ok(TailnetClient::new(client))
}

async fn session(url: &str, target: &str, token: &str) -> Result<Client, Error> {
    let address = url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = format!("ws://{address}{target}").into_client_request()?;
    let token = token.parse().unwrap();
    request.headers_mut().insert("Coder-Session-Token", token);
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    let (client, driver) = Client::new(Socket(socket));
    tokio::spawn(driver);
    Ok(client)
}
