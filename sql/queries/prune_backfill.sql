-- Deletes the lines of a backfill that is forgotten, and what was left out of them: one step of many.
-- In:  $1 account text, $2 name text, $3 rows int.
-- Out: one row: how many lines and how many of the others were deleted.
-- Why accounts are compared with an array of one: see claim.sql.
WITH forgotten AS MATERIALIZED (
    -- One that had accepted nothing may have begun anew since.
    SELECT b.account, b.name FROM caspen_sync.backfill b
    WHERE b.account = $1 AND b.name = $2 AND b.forgotten_at IS NOT NULL
    FOR NO KEY UPDATE
), lines AS MATERIALIZED (
    SELECT l.account, l.name, l.nth
    FROM forgotten f
    CROSS JOIN LATERAL (
        SELECT l.account, l.name, l.nth FROM caspen_sync.backfill_line l
        WHERE l.account = f.account AND l.name = f.name
        ORDER BY l.nth
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) AS l
), deleted AS (
    DELETE FROM caspen_sync.backfill_line l
    USING lines d
    WHERE l.account = ANY (ARRAY[d.account]) AND l.name = d.name AND l.nth = d.nth
), left_out AS MATERIALIZED (
    SELECT l.account, l.name, l.nth
    FROM forgotten f
    CROSS JOIN LATERAL (
        SELECT l.account, l.name, l.nth FROM caspen_sync.backfill_left_out l
        WHERE l.account = f.account AND l.name = f.name
        ORDER BY l.nth
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) AS l
), also AS (
    DELETE FROM caspen_sync.backfill_left_out l
    USING left_out d
    WHERE l.account = ANY (ARRAY[d.account]) AND l.name = d.name AND l.nth = d.nth
)
SELECT (SELECT count(*)::int FROM lines) AS lines, (SELECT count(*)::int FROM left_out) AS left_out
