//! Where the store of a test lives, on either engine, and a way to look behind it.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _, ValueRef as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

use super::postgres::{Database, Template};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::postgres::{PostgresOptions, SERVER_WAIT};
use crate::store::sqlite::SqliteOptions;
use crate::store::{SqlStore, postgres, sqlite};

/// What tests write behind the store's back is SQLite's SQL; this lets Postgres read it.
const SQLITE_WORDS: &str = include_str!("sqlite_words.sql");

/// Which engine a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// The one that `DRPCD_TEST_STORE` names, SQLite if none.
    pub(crate) fn of_environment() -> Self {
        match std::env::var("DRPCD_TEST_STORE").as_deref() {
            Ok("postgres") => Self::Postgres,
            _ => Self::Sqlite,
        }
    }
}

/// A directory with a file, or a database.
#[derive(Debug)]
pub(crate) enum Place {
    Sqlite(TempDir),
    Postgres(Database),
}

impl Place {
    /// An empty place. Without Postgres, which is said, it is SQLite's.
    pub(crate) fn new(engine: Engine) -> Self {
        let database = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Self::of_postgres(),
        };
        database.unwrap_or_else(|| Self::Sqlite(TempDir::new().unwrap()))
    }

    /// An empty place for what only Postgres does; `None` without it, which is said.
    pub(crate) fn of_postgres() -> Option<Self> {
        migrated().map(|template| Self::Postgres(template.database()))
    }

    pub(crate) async fn open(&self) -> SqlStore {
        match self {
            Self::Sqlite(directory) => Box::pin(sqlite::open(directory.path(), SqliteOptions::default()))
                .await
                .unwrap(),
            // Large, and the tests that wait for it hold a future of that size.
            Self::Postgres(database) => Box::pin(open(database.url())).await,
        }
    }

    /// A connection that looks behind the store.
    pub(crate) async fn connect(&self) -> Raw {
        match self {
            Self::Sqlite(directory) => {
                let options = SqliteConnectOptions::new().filename(directory.path().join("drpcd.db"));
                Raw::Sqlite(options.disable_statement_logging().connect().await.unwrap())
            }
            Self::Postgres(database) => Raw::of(database).await,
        }
    }
}

/// How long a test waits for a connection: longer than a caller, as a machine that has other things to do is no fault of the
/// database.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(url: &str) -> SqlStore {
    let options = PostgresOptions {
        url: Secret::new(url),
        connection_wait: PATIENCE,
        wait: SERVER_WAIT,
        max_connections: 4,
        max_idle: 4,
        lock_wait: None,
        migrate: true,
        expected: None,
    };
    postgres::open(&options, Clock::system()).await.unwrap()
}

/// A database with our schema, made once.
fn migrated() -> Option<&'static Template> {
    static MIGRATED: OnceLock<Option<Template>> = OnceLock::new();
    let fill = async |url: String| {
        use crate::store::Store as _;
        open(&url).await.close().await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(SQLITE_WORDS)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    };
    MIGRATED.get_or_init(|| Template::new(fill)).as_ref()
}

/// A connection behind a store.
#[derive(Debug)]
pub(crate) enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Raw {
    pub(crate) async fn of(database: &Database) -> Self {
        Self::Postgres(PgConnection::connect(database.url()).await.unwrap())
    }

    /// The rows of a statement, each cell as text: a UUID is its hexadecimal digits, a time and a span their microseconds, a
    /// truth 0 or 1, a list JSON; NULL is nothing.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self {
            Self::Sqlite(connection) => {
                let sql = AssertSqlSafe(sql.to_owned());
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                rows.iter().map(sqlite_cells).collect()
            }
            Self::Postgres(connection) => {
                // The order of insertion, as long as no row is changed.
                let sql = AssertSqlSafe(sql.replace("rowid", "ctid"));
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                rows.iter().map(postgres_cells).collect()
            }
        }
    }

    /// Runs the statements of the engine.
    pub(crate) async fn run(&mut self, sqlite: &str, postgres: &str) {
        match self {
            Self::Sqlite(connection) => {
                let done = sqlx::raw_sql(AssertSqlSafe(sqlite.to_owned()))
                    .execute(connection)
                    .await;
                done.map(drop).unwrap();
            }
            Self::Postgres(connection) => {
                let done = sqlx::raw_sql(AssertSqlSafe(postgres.to_owned()))
                    .execute(connection)
                    .await;
                done.map(drop).unwrap();
            }
        }
    }

    /// Makes rows of coordination older by more than a day.
    pub(crate) async fn age(&mut self, table: &str, condition: &str) {
        let column = if table == "tailnet_coordinators" {
            "heartbeat_at"
        } else {
            "updated_at"
        };
        self.query(&format!(
            "UPDATE {table} SET {column} = {column} - interval '24 hours 1 minute' WHERE {condition}"
        ))
        .await;
    }
}

fn sqlite_cells(row: &SqliteRow) -> Vec<Option<String>> {
    let cell = |column| {
        if let Ok(value) = row.try_get::<Option<i64>, _>(column) {
            value.map(|value| value.to_string())
        } else if let Ok(value) = row.try_get::<String, _>(column) {
            Some(value)
        } else if let Ok(value) = row.try_get::<f64, _>(column) {
            Some(value.to_string())
        } else {
            Some(row.get::<Uuid, _>(column).simple().to_string())
        }
    };
    (0..row.len()).map(cell).collect()
}

fn postgres_cells(row: &PgRow) -> Vec<Option<String>> {
    let cell = |column: usize| {
        let value = row.try_get_raw(column).unwrap();
        if value.is_null() {
            return None;
        }
        let name = value.type_info().name().to_owned();
        let bytes = value.as_bytes().unwrap();
        let text = || String::from_utf8(bytes.to_vec()).unwrap();
        Some(match name.as_str() {
            "BOOL" => u8::from(row.get::<bool, _>(column)).to_string(),
            "INT2" => row.get::<i16, _>(column).to_string(),
            "INT4" => row.get::<i32, _>(column).to_string(),
            "INT8" => row.get::<i64, _>(column).to_string(),
            "FLOAT8" => row.get::<f64, _>(column).to_string(),
            "UUID" => row.get::<Uuid, _>(column).simple().to_string(),
            "TIMESTAMPTZ" => {
                let micros = i64::from_be_bytes(bytes.try_into().unwrap());
                (micros + 946_684_800_000_000).to_string()
            }
            // Microseconds before days and months, of which a difference of times has none.
            "INTERVAL" => i64::from_be_bytes(bytes[..8].try_into().unwrap()).to_string(),
            // After the family, the length of the network, whether it is one, and of the address.
            "INET" => match <[u8; 4]>::try_from(&bytes[4..]) {
                Ok(address) => Ipv4Addr::from(address).to_string(),
                Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[4..]).unwrap()).to_string(),
            },
            // In one form, however it was written.
            "JSONB" => serde_json::from_str::<serde_json::Value>(&text()[1..])
                .unwrap()
                .to_string(),
            "UUID[]" => serde_json::to_string(&row.get::<Vec<Uuid>, _>(column)).unwrap(),
            name if name.ends_with("[]") => {
                let elements: Vec<String> = row.try_get_unchecked(column).unwrap();
                serde_json::to_string(&elements).unwrap()
            }
            _ => text(),
        })
    };
    (0..row.len()).map(cell).collect()
}
