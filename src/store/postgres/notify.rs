//! LISTEN and NOTIFY, over two connections apart from the pool that answers calls.
//!
//! Owns the SQL of notifications, how a channel is named in it, and what Postgres takes as a channel. Must never connect
//! again by itself: what was notified while a connection was lost is gone, and only the caller can make up for that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

/// Longest name of a channel in bytes: one less than Postgres' `NAMEDATALEN`.
const MAX_CHANNEL: usize = 63;

/// What prepares a sender's connection. Its transactions write no rows, so nobody has to wait for a disk while they hold
/// the one lock under which notifications are queued. Who waits for that lock behind somebody's commit that does not end is
/// ended by the database, or each try would leave a connection behind there.
const PREPARE: &str = "SELECT pg_backend_pid(), getdatabaseencoding()::text,
     set_config('synchronous_commit', 'off', false), set_config('lock_timeout', '9s', false)";

/// One statement, and so one transaction, for any number of notifications; in their order.
const NOTIFY: &str = "SELECT count(pg_notify(channel, payload))
     FROM unnest($1::text[], $2::text[]) AS message (channel, payload)";

/// Why notifications are neither sent nor received over a connection any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// There is no connection, or none that can be used; the text is the driver's.
    #[error("{0}")]
    Lost(String),
    /// Texts of another encoding may be none at all.
    #[error("the database's encoding is {0} instead of UTF8")]
    Encoding(String),
}

impl From<sqlx::Error> for NotifyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Whether Postgres takes `name` for a channel.
pub fn is_channel(name: &str) -> bool {
    (1..=MAX_CHANNEL).contains(&name.len()) && !name.contains('\0')
}

/// A database whose notifications are sent and received. Cheap to clone.
#[derive(Clone)]
pub struct Notifications(Arc<PgConnectOptions>);

/// Names no user and no password.
impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications")
            .field("host", &self.0.get_host())
            .field("port", &self.0.get_port())
            .field("database", &self.0.get_database())
            .finish_non_exhaustive()
    }
}

impl Notifications {
    /// Those of the database that `options` lead to, which must not be a pooler of transactions: it forgets LISTEN.
    pub fn new(options: &PgConnectOptions) -> Self {
        // Channels are no news, and payloads are parameters; a slow statement is its caller's to judge.
        Self(Arc::new(options.clone().disable_statement_logging()))
    }

    /// Opens both connections. The listener's listens to nothing yet.
    ///
    /// The driver gives up on the listener's after `limit`; how long all of it may take is the caller's to say.
    pub async fn connect(&self, limit: Duration) -> Result<(Sender, Listener), NotifyError> {
        // The sender first: where there is no connection to be had, it says why, and a pool says that time is up.
        let sender = Sender::connect(&self.0).await?;
        let listener = Listener::connect(&self.0, limit).await?;
        Ok((sender, listener))
    }
}

/// The connection that sends.
#[derive(Debug)]
pub struct Sender {
    connection: PgConnection,
    process_id: u32,
}

impl Sender {
    async fn connect(options: &PgConnectOptions) -> Result<Self, NotifyError> {
        let options = options.clone().application_name("drpcd notify");
        let mut connection = PgConnection::connect_with(&options).await?;
        let (process_id, encoding, _): (i32, String, String) =
            sqlx::query_as(PREPARE).fetch_one(&mut connection).await?;
        if encoding != "UTF8" {
            return Err(NotifyError::Encoding(encoding));
        }
        Ok(Self {
            connection,
            // A process id, which is positive.
            process_id: process_id.cast_unsigned(),
        })
    }

    /// What [`Notification::process_id`] says of this connection's notifications, and of no other's while it lives.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Sends notifications, as many at once as there are: all or none. Each is a channel and a payload. Equal ones are
    /// received once, where the first of them stands.
    ///
    /// After an error, or when the future is dropped before its end, nobody knows whether they were sent.
    pub async fn notify(&mut self, messages: &[(&str, &str)]) -> Result<(), NotifyError> {
        let (channels, payloads): (Vec<&str>, Vec<&str>) = messages.iter().copied().unzip();
        sqlx::query(NOTIFY)
            .bind(channels)
            .bind(payloads)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Closes the connection in order.
    pub async fn close(self) {
        // It is closed either way.
        let _ = self.connection.close().await;
    }
}

/// The connection that receives.
///
/// The driver keeps what comes while a statement runs, without a bound of its own: Postgres sends notifications between
/// statements only, so that is what was queued for this connection by the end of one LISTEN or UNLISTEN.
/// [`Listener::kept`] takes it out before the next.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    async fn connect(options: &PgConnectOptions, limit: Duration) -> Result<Self, NotifyError> {
        // Only a pool gives a listener its connection. This one gives one once; it neither replaces nor ends it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(limit)
            .connect_lazy_with(options.clone().application_name("drpcd listen"));
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        Ok(Self(listener))
    }

    /// Listens to `channels` too. What is committed after this has returned is received.
    pub async fn listen(&mut self, channels: &[Arc<str>]) -> Result<(), NotifyError> {
        self.execute("LISTEN", channels).await
    }

    /// Listens to `channels` no more; some of their notifications may still come.
    pub async fn unlisten(&mut self, channels: &[Arc<str>]) -> Result<(), NotifyError> {
        self.execute("UNLISTEN", channels).await
    }

    async fn execute(&mut self, verb: &str, channels: &[Arc<str>]) -> Result<(), NotifyError> {
        // Names of channels cannot be parameters.
        self.0.execute(AssertSqlSafe(statements(verb, channels))).await?;
        Ok(())
    }

    /// Waits for the next notification. Cancel safe.
    pub async fn receive(&mut self) -> Result<Notification, NotifyError> {
        match self.0.try_recv().await? {
            Some(notification) => Ok(Notification(notification)),
            // The driver would connect again at the next call, which there will not be.
            None => Err(NotifyError::Lost("connection to the database lost".to_owned())),
        }
    }

    /// The next notification of those that came while a statement ran.
    pub fn kept(&mut self) -> Option<Notification> {
        self.0.next_buffered().map(Notification)
    }
}

/// `verb` for each of `channels`, as one text, which Postgres runs as one transaction.
fn statements(verb: &str, channels: &[Arc<str>]) -> String {
    let mut text = String::with_capacity(channels.len() * (verb.len() + MAX_CHANNEL + "  \"\";".len()));
    for channel in channels {
        text.push_str(verb);
        text.push_str(" \"");
        text.push_str(&channel.replace('"', "\"\""));
        text.push_str("\";");
    }
    text
}

/// A notification that was received.
#[derive(Debug)]
pub struct Notification(PgNotification);

impl Notification {
    /// The process of the connection that sent it.
    pub fn process_id(&self) -> u32 {
        self.0.process_id()
    }

    /// On which channel.
    pub fn channel(&self) -> &str {
        self.0.channel()
    }

    /// What it says; empty without a payload.
    pub fn payload(&self) -> &str {
        self.0.payload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_quoted() {
        let channels = ["a".into(), r#"b"; DROP TABLE c; --"#.into()];
        assert_eq!(
            statements("LISTEN", &channels),
            r#"LISTEN "a";LISTEN "b""; DROP TABLE c; --";"#
        );
    }

    #[test]
    fn what_postgres_refuses_is_no_channel() {
        for (name, good) in [
            ("a", true),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
            (&"ä".repeat(32), false),
            ("", false),
            ("a\0b", false),
        ] {
            assert_eq!(is_channel(name), good, "{name:?}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let options: PgConnectOptions = "postgres://user:hidden@127.0.0.1/name".parse().unwrap();
        let shown = format!("{:?}", Notifications::new(&options));
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("127.0.0.1"), "{shown}");
    }
}
