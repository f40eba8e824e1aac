-- Deletes attempts that are older than the retention: one step of a walk through an account's attempts in the order of
-- time. Those of changes that are pending or parked stay: a person will want to read them.
-- In:  $1 account text, $2 the time to go on from timestamptz, $3 retention float8 (s), $4 rows to look at int.
-- Out: one row: how many were deleted, the time to go on from (null: the walk is over).
-- Why accounts are compared with an array of one: see claim.sql.
WITH looked AS MATERIALIZED (
    SELECT t.account, t.appointment_id, t.id, t.started_at, t.change_ids
    FROM caspen_sync.attempt t
    WHERE t.account = $1 AND t.started_at >= $2 AND t.started_at < now() - make_interval(secs => $3)
    ORDER BY t.started_at
    LIMIT $4
), old AS MATERIALIZED (
    SELECT t.account, t.appointment_id, t.id
    FROM looked l
    CROSS JOIN LATERAL (
        SELECT t.account, t.appointment_id, t.id FROM caspen_sync.attempt t
        WHERE t.account = l.account AND t.appointment_id = l.appointment_id AND t.id = l.id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS t
    LEFT JOIN LATERAL (
        SELECT true AS something FROM caspen_sync.outbox o
        WHERE o.account = l.account AND o.id = ANY (l.change_ids) AND o.state IN ('pending', 'parked')
        LIMIT 1
    ) AS waiting ON true
    WHERE waiting.something IS NULL
), deleted AS (
    DELETE FROM caspen_sync.attempt t
    USING old
    WHERE t.account = ANY (ARRAY[old.account]) AND t.appointment_id = old.appointment_id AND t.id = old.id
)
SELECT (SELECT count(*)::int FROM old) AS deleted,
       CASE WHEN count(*) = $4 THEN greatest(max(started_at), $2 + interval '1 microsecond') END AS from_time
FROM looked
