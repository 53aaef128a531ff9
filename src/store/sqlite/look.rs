//! Looking at a database file without a change to it: whose it is, how far its schema is, what is wrong with it.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::open::{FILE_NAME, LOCK_TIMEOUT, OpenError, migrator, refused};
use crate::store::schema::{self, Found, Readiness, Report, SchemaStep};

/// Tables that are named of a database of another program: enough to recognize it.
const NAMES_SHOWN: i64 = 5;

const TABLES: &str = "
    SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    ORDER BY name <> 'drpcd_migrations', name LIMIT ?";

/// What there is by name, and the columns of what has any.
const OBJECTS: &str = "
    SELECT o.type || ' ' || o.name AS object, coalesce(c.name, '') AS column_name
    FROM sqlite_schema AS o LEFT JOIN pragma_table_xinfo(o.name) AS c ON o.type IN ('table', 'view')
    WHERE o.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

/// Damages that are told of one file.
const DAMAGES: &str = "PRAGMA quick_check(10)";

/// A file that is not written.
pub(in crate::store) struct Looked {
    pub(in crate::store) connection: SqliteConnection,
    path: std::path::PathBuf,
}

impl Looked {
    /// `None` where there is no file.
    pub(in crate::store) async fn at(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        // Not opened for reading only: the side files that a reader needs would stay behind then.
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .pragma("query_only", "ON")
            .busy_timeout(LOCK_TIMEOUT)
            .disable_statement_logging();
        let connection = options.connect().await.map_err(|error| refused(&path, &error))?;
        Ok(Some(Self { connection, path }))
    }

    pub(in crate::store) async fn found(&mut self) -> Result<Found, OpenError> {
        let found = found(&mut self.connection).await;
        found.map_err(|error| refused(&self.path, &error))
    }

    /// The steps of our schema, of which a file that is not ours has none.
    pub(in crate::store) async fn migrations(&mut self) -> Result<Vec<SchemaStep>, OpenError> {
        let applied = match self.found().await? {
            Found::Own => {
                let versions = sqlx::query_scalar("SELECT version FROM drpcd_migrations WHERE success");
                let versions = versions.fetch_all(&mut self.connection).await;
                versions.map_err(|error| refused(&self.path, &error))?
            }
            _ => Vec::new(),
        };
        Ok(schema::migrations(&migrator(), &applied))
    }

    pub(in crate::store) async fn expect_migrated(&mut self) -> Result<(), OpenError> {
        let migrations = self.migrations().await?;
        let path = self.path.clone();
        match schema::readiness(&migrations) {
            Readiness::Ready => Ok(()),
            Readiness::Newer(version) => Err(OpenError::NewerSchema { path, version }),
            Readiness::Unmigrated(missing) => Err(OpenError::NotMigrated { path, missing }),
        }
    }

    async fn problems(&mut self) -> Result<Vec<String>, sqlx::Error> {
        let damages: Vec<String> = sqlx::query_scalar(DAMAGES)
            .fetch_all(&mut self.connection)
            .await?;
        let damages = damages.into_iter().filter(|text| text != "ok");
        let mut problems: Vec<_> = damages.map(|text| format!("file: damaged: {text}")).collect();
        let there = objects(&mut self.connection).await?;
        for (object, column) in expected().await?.difference(&there) {
            if !there.iter().any(|(other, _)| other == object) {
                problems.push(format!("{object}: missing"));
            } else if !column.is_empty() {
                problems.push(format!("{object}: column {column} missing"));
            }
        }
        problems.dedup();
        Ok(problems)
    }

    /// A connection that ends badly leaves nothing behind.
    pub(in crate::store) async fn close(self) {
        let _ = self.connection.close().await;
    }
}

/// Whose tables a database has.
pub(super) async fn found(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(TABLES)
        .bind(NAMES_SHOWN)
        .fetch_all(connection)
        .await?;
    Ok(match tables.first().map(String::as_str) {
        None => Found::None,
        Some("drpcd_migrations") => Found::Own,
        Some(_) => Found::Foreign(tables),
    })
}

type Objects = BTreeSet<(String, String)>;

async fn objects(connection: &mut SqliteConnection) -> Result<Objects, sqlx::Error> {
    let rows = sqlx::query(OBJECTS).fetch_all(connection).await?;
    let object = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get("object")?, row.try_get("column_name")?));
    rows.iter().map(object).collect()
}

/// What our schema makes.
async fn expected() -> Result<Objects, sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .disable_statement_logging()
        .connect()
        .await?;
    let migrated = migrator().run_direct(None, &mut connection, false).await;
    migrated.map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    objects(&mut connection).await
}

/// What is in `dir`.
pub(super) async fn report(dir: &Path) -> Result<Report, OpenError> {
    let mut report = Report {
        place: dir.join(FILE_NAME).display().to_string(),
        tables: Found::None,
        version: None,
        missing: Vec::new(),
    };
    let Some(mut file) = Looked::at(dir).await? else {
        report.missing.push("file: missing".to_owned());
        return Ok(report);
    };
    report.tables = file.found().await?;
    let migrations = file.migrations().await?;
    report.version = schema::last_applied(&migrations);
    report.missing = match report.tables {
        Found::Own => schema::unmigrated(&migrations).collect(),
        _ => vec![format!("tables: {} instead of those of drpcd", report.tables)],
    };
    if report.tables == Found::Own {
        let problems = file.problems().await;
        let problems = problems.map_err(|error| refused(&file.path, &error))?;
        report.missing.extend(problems);
    }
    file.close().await;
    Ok(report)
}
