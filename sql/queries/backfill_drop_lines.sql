-- Deletes lines of a backfill, one step of many.
-- In:  $1 account text, $2 name text, $3 only those behind this nth bigint, $4 rows int.
-- Out: one row: how many were deleted.
WITH step AS MATERIALIZED (
    SELECT l.nth FROM caspen_sync.backfill_line l
    WHERE l.account = $1 AND l.name = $2 AND l.nth > $3
    ORDER BY l.nth
    LIMIT $4
), deleted AS (
    DELETE FROM caspen_sync.backfill_line l
    USING step s
    WHERE l.account = $1 AND l.name = $2 AND l.nth = s.nth
    RETURNING l.nth
)
SELECT count(*)::int AS deleted FROM deleted
