use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const MOST: usize = 1_000;

/// A server that gives every request one of `answers`, in order, then none. Connections without one, of whoever looks for a
/// server that was at this port before, are passed over.
async fn server(answers: Vec<String>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/map?token=secret", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for answer in answers {
            let mut stream = loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n")
                    && let Ok(byte) = stream.read_u8().await
                {
                    head.push(byte);
                }
                if head.starts_with(b"GET /map") {
                    break stream;
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url.parse().unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn get(answers: Vec<String>) -> Result<Bytes, OutboundError> {
    let url = server(answers).await;
    Outbound::default().get(&url, MOST).await
}

#[tokio::test]
async fn a_body_comes_up_to_the_bound_and_no_further() {
    let most = "x".repeat(MOST);
    assert_eq!(get(vec![answer("200 OK", &most)]).await.unwrap(), most);
    let error = get(vec![answer("200 OK", &"x".repeat(MOST + 1))])
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the answer has more than 1000 bytes");
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1_000_000));
    assert!(matches!(
        get(vec![endless]).await,
        Err(OutboundError::TooLarge(MOST))
    ));
}

#[tokio::test]
async fn an_answer_that_is_no_success_is_an_error() {
    let error = get(vec![answer("404 Not Found", "{}")]).await.unwrap_err();
    assert_eq!(error.to_string(), "unexpected status 404 Not Found");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let elsewhere = server(vec![answer("200 OK", "there")]).await;
    let moved = format!(
        "HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(get(vec![moved]).await.unwrap(), "there");
    let to_itself = "HTTP/1.1 302 Found\r\nLocation: /map\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let error = get(vec![to_itself.to_owned(); 12]).await.unwrap_err();
    assert!(error.to_string().contains("redirect"), "{error}");
}

#[tokio::test]
async fn an_error_says_why_and_names_no_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!(
        "http://user:secret@{}/?token=secret",
        listener.local_addr().unwrap()
    )
    .parse()
    .unwrap();
    drop(listener);
    let error = Outbound::default().get(&url, MOST).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let getting = tokio::spawn(async move { Outbound::default().get(&url, MOST).await });
    let held = listener.accept().await.unwrap();
    tokio::time::pause();
    tokio::time::advance(REQUEST_TIMEOUT + Duration::from_secs(1)).await;
    let error = getting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    drop(held);
}
