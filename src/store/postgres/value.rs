//! Arguments and columns in Postgres' binary form, where the driver knows no type of ours.

use std::net::IpAddr;

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef,
};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _, Type};

use crate::clock::Timestamp;
use crate::store::sql::value::Value;

// Ids of built-in types (PostgreSQL `src/include/catalog/pg_type.dat`).
const UNSPECIFIED: Oid = Oid(0);
const INET: Oid = Oid(869);
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);
const JSONB: Oid = Oid(3802);

/// Version of the binary form of JSONB, before its text.
const JSONB_VERSION: u8 = 1;

/// Address families in the binary form of inet (PostgreSQL `src/include/utils/inet.h`).
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 3;

/// Microseconds from 1970 to 2000, from where Postgres counts.
const EPOCH: i64 = 946_684_800_000_000;

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// A statement with its arguments.
pub(super) fn query<'q>(sql: &'static str, arguments: Vec<Value<'q>>) -> PgQuery<'q> {
    arguments.into_iter().fold(sqlx::query(sql), bind)
}

fn bind<'q>(query: PgQuery<'q>, value: Value<'q>) -> PgQuery<'q> {
    match value {
        Value::Boolean(value) => query.bind(value),
        Value::Integer(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Label(value) => query.bind(value.map(Label)),
        Value::Json(value) => query.bind(value.as_deref().map(Json)),
        Value::Bytes(value) => query.bind(value),
        Value::Id(value) => query.bind(value),
        Value::Time(value) => query.bind(value.map(Time)),
        Value::Address(value) => query.bind(value.map(Address)),
        Value::Integers(values) => query.bind(values),
        Value::Reals(values) => query.bind(values),
        Value::Booleans(values) => query.bind(values),
        Value::Texts(values) => query.bind(values),
        Value::Ids(values) => query.bind(values),
        Value::Times(values) => query.bind(values.into_iter().map(Time).collect::<Vec<_>>()),
        Value::Blobs(values) => query.bind(values),
    }
}

/// A label of whatever enum the statement puts it into: the server finds the type.
struct Label<'q>(&'q str);

impl Type<Postgres> for Label<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UNSPECIFIED)
    }
}

impl Encode<'_, Postgres> for Label<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

struct Json<'q>(&'q str);

impl Type<Postgres> for Json<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB)
    }
}

impl Encode<'_, Postgres> for Json<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB_VERSION);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// A point in time as an argument.
pub(in crate::store) struct Time(pub(in crate::store) Timestamp);

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.as_micros().saturating_sub(EPOCH);
        buffer.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

struct Address(IpAddr);

impl Type<Postgres> for Address {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(INET)
    }
}

impl Encode<'_, Postgres> for Address {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // Family, bits of the network, whether it is one, bytes of the address, the address.
        match self.0 {
            IpAddr::V4(address) => {
                buffer.extend_from_slice(&[FAMILY_IPV4, 32, 0, 4]);
                buffer.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                buffer.extend_from_slice(&[FAMILY_IPV6, 128, 0, 16]);
                buffer.extend_from_slice(&address.octets());
            }
        }
        Ok(IsNull::No)
    }
}

/// A column of text: text itself, a label, or JSON.
pub(in crate::store) fn text<'r>(value: &PgValueRef<'r>) -> Result<&'r str, BoxDynError> {
    let json = value.format() == PgValueFormat::Binary && is_jsonb(value);
    let text = value.as_str()?;
    Ok(match text.as_bytes().first() {
        Some(&JSONB_VERSION) if json => &text[1..],
        _ => text,
    })
}

fn is_jsonb(value: &PgValueRef<'_>) -> bool {
    use sqlx::{TypeInfo as _, ValueRef as _};
    value.type_info().name() == "JSONB"
}

/// A column of a point in time. What lies beyond what [`Timestamp`] can tell (such as infinity) is its bound.
pub(in crate::store) fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    let read = |value: PgValueRef<'_>| -> Result<Timestamp, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        let micros = micros.saturating_add(EPOCH);
        Ok(Timestamp::from_micros(
            micros.clamp(Timestamp::ZERO.as_micros(), Timestamp::MAX.as_micros()),
        ))
    };
    read(value).map_err(|source| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source,
    })
}
