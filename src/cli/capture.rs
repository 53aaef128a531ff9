//! `drpcd capture`: records sessions between agents and any server, shows, replays and compares them.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Failure;
use crate::capture::{Capture, Difference, Ended, compare};
use crate::clock::Clock;
use crate::http::capture::{address_of, record, replay};
use crate::telemetry::logs::{self, LogConfig};

/// Records sessions between agents and a server, shows, replays and compares them.
#[derive(Args, Debug)]
pub(super) struct CaptureArgs {
    #[command(subcommand)]
    verb: CaptureVerb,
}

#[derive(Debug, Subcommand)]
enum CaptureVerb {
    /// Passes connections on to a server and writes each session into a file when it is over; ends with SIGINT or SIGTERM.
    ///
    /// Tokens are left out; everything else that agent and server say is in the files, environment variables included.
    Record {
        /// Address that agents dial instead of the server's.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The server, http only.
        #[arg(long, value_name = "URL")]
        to: Url,
        /// Directory for the files, which must exist; they are named 0001.txt and so on.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Tells the calls of a recorded session.
    Show {
        /// The recorded session.
        file: PathBuf,
    },
    /// Says to a server what a recorded agent said, and tells in what the answers differ; exit code 1 if they do.
    Replay {
        /// The recorded session.
        file: PathBuf,
        /// The server, http only.
        #[arg(long, value_name = "URL")]
        to: Url,
        /// Token of an agent.
        #[arg(long, env = "CODER_AGENT_TOKEN", hide_env_values = true)]
        token: String,
        /// File for the session as it went this time.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Tells in what the answers of two sessions differ in which the agent said the same; exit code 1 if they do.
    Diff {
        /// The first recorded session.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
}

pub(super) fn run(args: &CaptureArgs) -> Result<(), Failure> {
    logs::init(&LogConfig::default()).map_err(Failure::failed)?;
    let runtime = super::runtime(Builder::new_current_thread())?;
    match &args.verb {
        CaptureVerb::Record { listen, to, output } => runtime.block_on(record_into(*listen, to, output)),
        CaptureVerb::Show { file } => show(&read(file)?),
        CaptureVerb::Replay {
            file,
            to,
            token,
            output,
        } => {
            let recorded = read(file)?;
            let address = address_of(to).map_err(Failure::Usage)?;
            let replayed = runtime
                .block_on(replay(address, token, &recorded, &Clock::system()))
                .map_err(|error| Failure::Failed(format!("cannot replay to {to}: {error}")))?;
            if let Some(output) = output {
                write(output, &replayed).map_err(|error| cannot_write(output, &error))?;
            }
            tell(&compare(&recorded, &replayed))
        }
        CaptureVerb::Diff { first, second } => tell(&compare(&read(first)?, &read(second)?)),
    }
}

async fn record_into(listen: SocketAddr, to: &Url, output: &Path) -> Result<(), Failure> {
    let upstream = address_of(to).map_err(Failure::Usage)?;
    if !output.is_dir() {
        return Err(Failure::Usage(format!("{} is no directory", output.display())));
    }
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::Failed(format!("cannot listen on {listen}: {error}")))?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let mut signals = super::Signals::new()?;
    let stop = CancellationToken::new();
    let (directory, number) = (output.to_owned(), AtomicU64::new(1));
    let keep = move |capture: Capture| {
        // Never over one that is there.
        loop {
            let number = number.fetch_add(1, Ordering::Relaxed);
            let file = directory.join(format!("{number:04}.txt"));
            match write(&file, &capture) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return tracing::error!(%error, file = %file.display(), "a session is not kept"),
                Ok(()) => return tracing::info!(file = %file.display(), "recorded a session"),
            }
        }
    };
    let recording = record(listener, upstream, Clock::system(), stop.clone(), keep);
    let mut out = io::stdout();
    writeln!(out, "listening on http://{address}")?;
    out.flush()?;
    let ended = async {
        signals.end().await;
        stop.cancel();
    };
    tokio::join!(recording, ended);
    Ok(())
}

fn read(file: &Path) -> Result<Capture, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display())))?;
    Capture::parse(&text).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}

/// Writes a new file that nobody else may read, whole or not at all.
fn write(file: &Path, capture: &Capture) -> io::Result<()> {
    let mut out = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let written = out.write_all(capture.to_text().as_bytes());
    if written.is_err() {
        // What it says then is that of the write.
        let _ = std::fs::remove_file(file);
    }
    written
}

fn cannot_write(file: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", file.display()))
}

fn show(capture: &Capture) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} {}", capture.target, capture.status)?;
    for (stream, call) in capture.calls() {
        let path = if call.path.is_empty() {
            "(no call)"
        } else {
            &call.path
        };
        writeln!(out, "stream {stream} {path}")?;
        for (arrow, packets) in [('>', &call.sent), ('<', &call.answers)] {
            for packet in packets {
                let (kind, length) = (packet.name(), packet.data.len());
                writeln!(
                    out,
                    "  {arrow} {kind} {}/{} {length} bytes",
                    packet.stream, packet.message
                )?;
            }
        }
        match (call.given_up_at, call.ended) {
            (Some(answers), _) => writeln!(out, "  given up by the agent after {answers} answers")?,
            (None, Some(Ended::Reset)) => writeln!(out, "  reset by the server")?,
            (None, Some(Ended::Fin)) => {}
            (None, None) => writeln!(out, "  not ended by the server")?,
        }
    }
    Ok(())
}

fn tell(differences: &[Difference]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for difference in differences {
        writeln!(out, "{difference}")?;
    }
    out.flush()?;
    match differences.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 difference".to_owned())),
        many => Err(Failure::Failed(format!("{many} differences"))),
    }
}
