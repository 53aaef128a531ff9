//! Statements by name, in the dialect of each engine.

use super::value::Value;

/// Which SQL an engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Dialect {
    Sqlite,
    Postgres,
}

/// One statement and the name under which it is counted.
#[derive(Debug)]
pub(in crate::store) struct Statement {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) sqlite: &'static str,
    pub(in crate::store) postgres: &'static str,
}

impl Statement {
    /// The statement with its first argument.
    pub(in crate::store) fn bind<'q>(&'static self, value: impl Into<Value<'q>>) -> Call<'q> {
        self.call().bind(value)
    }

    /// The statement without arguments so far.
    pub(in crate::store) fn call<'q>(&'static self) -> Call<'q> {
        Call {
            statement: self,
            arguments: Vec::new(),
        }
    }
}

/// Declares statements, and lists them for the counters and for the tests that prepare each. One text serves both
/// engines; where they differ, that of Postgres stands behind SQLite's.
macro_rules! statements {
    ($($(#[$doc:meta])* $constant:ident = $name:literal: $sqlite:expr $(, postgres: $postgres:expr)?;)*) => {
        $($(#[$doc])* static $constant: $crate::store::sql::statement::Statement =
            $crate::store::sql::statement::Statement {
                name: $name,
                sqlite: $sqlite,
                postgres: $crate::store::sql::statement::postgres_text!($sqlite $(, $postgres)?),
            };)*

        /// Every statement of this module.
        pub(in $crate::store) static STATEMENTS: &[&$crate::store::sql::statement::Statement] = &[$(&$constant),*];
    };
}
pub(in crate::store) use statements;

macro_rules! postgres_text {
    ($both:expr) => {
        $both
    };
    ($sqlite:expr, $postgres:expr) => {
        $postgres
    };
}
pub(in crate::store) use postgres_text;

/// A statement with its arguments.
#[derive(Debug)]
pub(in crate::store) struct Call<'q> {
    pub(super) statement: &'static Statement,
    pub(super) arguments: Vec<Value<'q>>,
}

impl<'q> Call<'q> {
    /// Adds the next argument.
    pub(in crate::store) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.arguments.push(value.into());
        self
    }
}
