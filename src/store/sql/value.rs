//! Arguments of a statement, as every engine takes them.
//!
//! Owns how the store's types become arguments. Must never know how an engine encodes them.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;

use crate::clock::Timestamp;

/// One argument. NULL has the type of its column, so that a statement is prepared alike whatever it is given.
#[derive(Clone)]
pub(in crate::store) enum Value<'q> {
    Boolean(Option<bool>),
    Integer(Option<i64>),
    Real(f64),
    Text(Option<Cow<'q, str>>),
    /// A label of an enum column.
    Label(Option<&'q str>),
    /// The text of a JSON column.
    Json(Option<Cow<'q, str>>),
    Bytes(&'q [u8]),
    Id(Option<Uuid>),
    Time(Option<Timestamp>),
    Address(Option<IpAddr>),
    Integers(Vec<i64>),
    Reals(Vec<f64>),
    Booleans(Vec<bool>),
    Texts(Vec<Cow<'q, str>>),
    Ids(Vec<Uuid>),
    Times(Vec<Timestamp>),
    Blobs(Vec<&'q [u8]>),
}

/// Shows the type only: arguments may be secrets.
impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean(_) => "Boolean",
            Self::Integer(_) => "Integer",
            Self::Real(_) => "Real",
            Self::Text(_) => "Text",
            Self::Label(_) => "Label",
            Self::Json(_) => "Json",
            Self::Bytes(_) => "Bytes",
            Self::Id(_) => "Id",
            Self::Time(_) => "Time",
            Self::Address(_) => "Address",
            Self::Integers(_) => "Integers",
            Self::Reals(_) => "Reals",
            Self::Booleans(_) => "Booleans",
            Self::Texts(_) => "Texts",
            Self::Ids(_) => "Ids",
            Self::Times(_) => "Times",
            Self::Blobs(_) => "Blobs",
        })
    }
}

macro_rules! arguments {
    ($($type:ty: $value:ident => $argument:expr;)*) => {$(
        impl<'q> From<$type> for Value<'q> {
            fn from($value: $type) -> Self {
                $argument
            }
        }
    )*};
}

arguments! {
    bool: value => Self::Boolean(Some(value));
    i32: value => Self::Integer(Some(value.into()));
    u32: value => Self::Integer(Some(value.into()));
    i64: value => Self::Integer(Some(value));
    Option<i32>: value => Self::Integer(value.map(i64::from));
    Option<i64>: value => Self::Integer(value);
    Option<u8>: value => Self::Integer(value.map(i64::from));
    f64: value => Self::Real(value);
    &'q str: value => Self::Text(Some(Cow::Borrowed(value)));
    Option<&'q str>: value => Self::Text(value.map(Cow::Borrowed));
    String: value => Self::Text(Some(Cow::Owned(value)));
    &'q [u8]: value => Self::Bytes(value);
    Uuid: value => Self::Id(Some(value));
    Option<Uuid>: value => Self::Id(value);
    Timestamp: value => Self::Time(Some(value));
    Option<Timestamp>: value => Self::Time(value);
    Option<IpAddr>: value => Self::Address(value);
    Vec<Uuid>: value => Self::Ids(value);
    Vec<Timestamp>: value => Self::Times(value);
    Vec<i64>: value => Self::Integers(value);
    Vec<f64>: value => Self::Reals(value);
    Vec<bool>: value => Self::Booleans(value);
    Vec<&'q [u8]>: value => Self::Blobs(value);
}

/// A label of an enum column.
pub(in crate::store) fn label(label: &str) -> Value<'_> {
    Value::Label(Some(label))
}

/// The text of a JSON column.
pub(in crate::store) fn json_text<'q>(text: impl Into<Cow<'q, str>>) -> Value<'q> {
    Value::Json(Some(text.into()))
}

/// A list of texts.
pub(in crate::store) fn texts<'q>(texts: impl IntoIterator<Item = &'q str>) -> Value<'q> {
    Value::Texts(texts.into_iter().map(Cow::Borrowed).collect())
}

/// A list of ids.
pub(in crate::store) fn ids(ids: impl IntoIterator<Item = Uuid>) -> Value<'static> {
    Value::Ids(ids.into_iter().collect())
}
