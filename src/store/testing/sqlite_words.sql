-- For tests only: what SQLite takes for an id, a time and a truth, Postgres takes too.

-- Microseconds since 1970 are a time.
CREATE FUNCTION drpcd_test_time(bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
    $$ SELECT '1970-01-01 00:00:00+00'::timestamptz + make_interval(secs => $1 / 1000000) + $1 % 1000000 * interval '1 microsecond' $$;
CREATE FUNCTION drpcd_test_time(integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
    $$ SELECT drpcd_test_time($1::bigint) $$;
CREATE CAST (bigint AS timestamptz) WITH FUNCTION drpcd_test_time(bigint) AS IMPLICIT;
CREATE CAST (integer AS timestamptz) WITH FUNCTION drpcd_test_time(integer) AS IMPLICIT;
CREATE FUNCTION drpcd_test_later(timestamptz, integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
    $$ SELECT $1 + $2 * interval '1 microsecond' $$;
CREATE OPERATOR + (LEFTARG = timestamptz, RIGHTARG = integer, FUNCTION = drpcd_test_later);
CREATE FUNCTION drpcd_test_since(timestamptz, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT (extract(epoch FROM $1) * 1000000)::bigint - $2 $$;
CREATE OPERATOR - (LEFTARG = timestamptz, RIGHTARG = bigint, FUNCTION = drpcd_test_since);
CREATE FUNCTION drpcd_test_parts(timestamptz, integer) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT (extract(epoch FROM $1) * 1000000)::bigint / $2 $$;
CREATE OPERATOR / (LEFTARG = timestamptz, RIGHTARG = integer, FUNCTION = drpcd_test_parts);

-- 0 and 1 are truths.
UPDATE pg_cast SET castcontext = 'a' WHERE castsource = 'integer'::regtype AND casttarget = 'boolean'::regtype;
CREATE FUNCTION drpcd_test_is(boolean, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 = ($2 <> 0) $$;
CREATE OPERATOR = (LEFTARG = boolean, RIGHTARG = integer, FUNCTION = drpcd_test_is);

-- x'…' is an id.
CREATE FUNCTION drpcd_test_id(bit) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(to_hex(substring($1 FROM n * 4 + 1 FOR 4)::bit(4)::integer), '' ORDER BY n)::uuid
    FROM generate_series(0, 31) AS n
$$;
CREATE CAST (bit AS uuid) WITH FUNCTION drpcd_test_id(bit) AS IMPLICIT;
CREATE FUNCTION randomblob(integer) RETURNS uuid LANGUAGE sql AS $$ SELECT gen_random_uuid() $$;
CREATE FUNCTION length(uuid) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 16 $$;
CREATE FUNCTION hex(uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper(replace($1::text, '-', '')) $$;

CREATE FUNCTION pragma_table_info(text) RETURNS TABLE (name text) LANGUAGE sql STABLE AS $$
    SELECT column_name::text FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER'
$$;

-- Events are notified here; the table is there to be found empty.
CREATE TABLE drpcd_events (id bigint, channel text, payload text);
