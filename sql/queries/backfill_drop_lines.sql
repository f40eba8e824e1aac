-- Deletes lines of a backfill, one step of many, for as long as the process holds it. What is accepted stays, unless a person
-- has cancelled it: a commit may have gone through of which nothing was heard.
-- In:  $1 account text, $2 name text, $3 token uuid, $4 only those behind this nth bigint, $5 rows int.
-- Out: one row: how many were deleted.
-- Why accounts are compared with an array of one: see claim.sql.
WITH mine AS MATERIALIZED (
    SELECT b.account, b.name, CASE WHEN b.cancelled_at IS NULL THEN greatest(b.accepted_nth, $4) ELSE $4 END AS behind
    FROM caspen_sync.backfill b
    WHERE b.account = $1 AND b.name = $2 AND b.token = $3
    FOR NO KEY UPDATE
), step AS MATERIALIZED (
    SELECT l.account, l.name, l.nth
    FROM mine m
    CROSS JOIN LATERAL (
        SELECT l.account, l.name, l.nth FROM caspen_sync.backfill_line l
        WHERE l.account = m.account AND l.name = m.name AND l.nth > m.behind
        ORDER BY l.nth
        LIMIT $5
    ) AS l
), deleted AS (
    DELETE FROM caspen_sync.backfill_line l
    USING step s
    WHERE l.account = ANY (ARRAY[s.account]) AND l.name = s.name AND l.nth = s.nth
    RETURNING l.nth
)
SELECT count(*)::int AS deleted FROM deleted
