//! Whose tables a store has, and how far their schema is.

use std::collections::BTreeSet;
use std::fmt;

use sqlx::migrate::Migrator;

/// Whose tables a store works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schema {
    /// Our own: all of it is ours to write.
    #[default]
    Own,
    /// Those of a coder deployment, which has servers of its own. What agents report is written there, and nothing else.
    Coder,
}

/// Whose tables an operator expects a database to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Our own, or none yet.
    Own,
    /// Those of a coder deployment.
    Coder,
}

impl Tables {
    /// In the words of an error.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "those of drpcd",
            Self::Coder => "those of a coder deployment",
        }
    }
}

/// A step of our own schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaStep {
    /// Its number; they ascend, with gaps.
    pub version: i64,
    /// What it does; empty when it is unknown.
    pub description: String,
    /// Whether it was made.
    pub state: StepState,
}

/// How a database stands to a step of our schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It was made.
    Applied,
    /// It is still to be made.
    Pending,
    /// It was made, by a newer program.
    Unknown,
}

impl StepState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Unknown => "unknown",
        }
    }
}

/// The steps that `known` lists and those that were `applied`, in their order.
pub(super) fn migrations(known: &Migrator, applied: &[i64]) -> Vec<SchemaStep> {
    let applied: BTreeSet<_> = applied.iter().copied().collect();
    let described = |version: i64| known.iter().find(|migration| migration.version == version);
    let versions: BTreeSet<_> = known
        .iter()
        .map(|migration| migration.version)
        .chain(applied.iter().copied())
        .collect();
    let migration = |version| {
        let (description, state) = match described(version) {
            None => (String::new(), StepState::Unknown),
            Some(known) if applied.contains(&version) => (known.description.to_string(), StepState::Applied),
            Some(known) => (known.description.to_string(), StepState::Pending),
        };
        SchemaStep {
            version,
            description,
            state,
        }
    };
    versions.into_iter().map(migration).collect()
}

/// What was found where a store is said to be, without a change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where, without how to get in.
    pub place: String,
    /// Whose tables there are.
    pub tables: Found,
    /// The last step of their schema, by the count of whom they belong to.
    pub version: Option<i64>,
    /// What is not as it has to be, one text each; empty when a server can work there.
    pub missing: Vec<String>,
}

/// Whose tables were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// None.
    None,
    /// Our own.
    Own,
    /// Those of a coder deployment.
    Coder,
    /// Another program's; some of their names.
    Foreign(Vec<String>),
}

impl Found {
    /// Whether they are those that are expected; where there are none, ours can be made.
    pub fn are(&self, expected: Tables) -> bool {
        match expected {
            Tables::Own => matches!(self, Self::None | Self::Own),
            Tables::Coder => *self == Self::Coder,
        }
    }

    /// A word for scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Own => "own",
            Self::Coder => "coder",
            Self::Foreign(_) => "foreign",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no tables"),
            Self::Own => f.write_str("the tables of drpcd"),
            Self::Coder => f.write_str("the tables of a coder deployment"),
            Self::Foreign(tables) => write!(f, "tables of another program ({})", tables.join(", ")),
        }
    }
}

/// The last step that was made.
pub(super) fn last_applied(migrations: &[SchemaStep]) -> Option<i64> {
    let made = migrations.iter().filter(|step| step.state != StepState::Pending);
    made.map(|step| step.version).max()
}

/// Whether a program that migrates nothing can work with our own schema.
pub(super) enum Readiness {
    Ready,
    /// A newer program has made this step.
    Newer(i64),
    /// These steps are not made.
    Unmigrated(Vec<String>),
}

pub(super) fn readiness(migrations: &[SchemaStep]) -> Readiness {
    let unknown = migrations.iter().rfind(|step| step.state == StepState::Unknown);
    if let Some(newer) = unknown {
        return Readiness::Newer(newer.version);
    }
    let missing: Vec<_> = unmigrated(migrations).collect();
    if missing.is_empty() {
        Readiness::Ready
    } else {
        Readiness::Unmigrated(missing)
    }
}

/// What is wrong with our own schema where not all of `migrations` are made.
pub(super) fn unmigrated(migrations: &[SchemaStep]) -> impl Iterator<Item = String> + '_ {
    migrations.iter().filter_map(|migration| match migration.state {
        StepState::Applied => None,
        StepState::Pending => Some(format!(
            "migration {} ({}): missing",
            migration.version, migration.description
        )),
        StepState::Unknown => Some(format!("migration {}: of a newer program", migration.version)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(version: i64, state: StepState) -> SchemaStep {
        SchemaStep {
            version,
            description: String::new(),
            state,
        }
    }

    #[test]
    fn a_newer_schema_is_not_one_to_bring_up_to_date() {
        let (applied, pending, unknown) = (StepState::Applied, StepState::Pending, StepState::Unknown);
        assert!(matches!(readiness(&[step(1, applied)]), Readiness::Ready));
        let missing = readiness(&[step(1, applied), step(2, pending)]);
        assert!(matches!(missing, Readiness::Unmigrated(missing) if missing.len() == 1));
        let newer = readiness(&[
            step(1, applied),
            step(2, pending),
            step(3, unknown),
            step(4, unknown),
        ]);
        assert!(matches!(newer, Readiness::Newer(4)));
    }
}
