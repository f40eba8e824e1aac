-- Leaves out of changes that were just loaded what newer changes have set. To be run in the transaction that loaded them
-- and after it: their appointments are locked by then, so that whatever was committed is seen, and nothing else can be.
-- In:  $1 account text, $2 name text, $3 the ids bigint[], $4 the nth of their lines bigint[].
-- Out: one row: from how many of them something was left out, and from how many all, which are discarded thereby.
--
-- The LATERAL with a LIMIT, and an array of one account, make the planner look rows up one by one, see claim.sql: one that
-- knows empty tables would read all lines and all changes, for each step.
WITH line AS MATERIALIZED (
    SELECT m.id, l.nth, l.line, l.appointment_id, l.changes, l.as_of
    FROM unnest($3::bigint[], $4::bigint[]) AS m (id, nth)
    CROSS JOIN LATERAL (
        SELECT l.nth, l.line, l.appointment_id, l.changes, l.as_of
        FROM caspen_sync.backfill_line l
        WHERE l.account = $1 AND l.name = $2 AND l.nth = m.nth
        LIMIT 1
    ) AS l
), found AS MATERIALIZED (
    SELECT $1::text AS account, 'backfill' AS lane, l.id, l.nth, l.line, l.appointment_id, l.changes - n.fields AS rest,
           n.fields, n.newer
    FROM line l
    CROSS JOIN LATERAL (
        SELECT array_agg(f.field ORDER BY f.field) AS fields, array_agg(f.change_id ORDER BY f.field) AS newer
        FROM caspen_sync.newer_fields($1, l.appointment_id, l.as_of) AS f
        WHERE l.changes ? f.field
    ) AS n
    WHERE n.fields IS NOT NULL
), cut AS (
    UPDATE caspen_sync.outbox o
    SET changes = CASE WHEN f.rest = '{}' THEN o.changes ELSE f.rest END,
        state = CASE WHEN f.rest = '{}' THEN 'discarded' ELSE o.state END,
        last_error = CASE WHEN f.rest = '{}' THEN 'left out: newer changes had set all of its fields' END,
        finished_at = CASE WHEN f.rest = '{}' THEN clock_timestamp() END
    FROM found f
    WHERE o.account = ANY (ARRAY[f.account]) AND o.id = f.id
), nothing_to_send AS (
    DELETE FROM caspen_sync.arrival x
    USING found f
    WHERE x.account = ANY (ARRAY[f.account]) AND x.lane = f.lane AND x.change_id = f.id AND f.rest = '{}'
), listed AS (
    INSERT INTO caspen_sync.backfill_left_out (account, name, nth, line, appointment_id, change_id, fields, newer)
    SELECT $1, $2, nth, line, appointment_id, id, fields, newer FROM found
), counted AS (
    UPDATE caspen_sync.backfill b
    SET left_out = b.left_out + n.lines, outdated = b.outdated + n.whole
    FROM (SELECT count(*) AS lines, count(*) FILTER (WHERE rest = '{}') AS whole FROM found) AS n
    WHERE b.account = $1 AND b.name = $2 AND n.lines > 0
)
SELECT count(*)::int AS lines, count(*) FILTER (WHERE rest = '{}')::int AS whole FROM found
