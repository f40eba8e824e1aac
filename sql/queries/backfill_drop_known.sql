-- Deletes, of the lines that are being read, those that are accepted already: of three equal lines where two are known,
-- the first two.
-- In:  $1 account text, $2 name text, $3 the lines up to this nth are accepted bigint.
-- Out: one row: how many were deleted.
WITH known AS (
    SELECT l.digest, count(*) AS times
    FROM caspen_sync.backfill_line l
    WHERE l.account = $1 AND l.name = $2 AND l.nth <= $3
    GROUP BY l.digest
), staged AS (
    SELECT l.nth, l.digest, row_number() OVER (PARTITION BY l.digest ORDER BY l.nth) AS time
    FROM caspen_sync.backfill_line l
    WHERE l.account = $1 AND l.name = $2 AND l.nth > $3
), deleted AS (
    DELETE FROM caspen_sync.backfill_line l
    USING staged s, known k
    WHERE l.account = $1 AND l.name = $2 AND l.nth = s.nth AND k.digest = s.digest AND s.time <= k.times
    RETURNING l.nth
)
SELECT count(*) AS deleted FROM deleted
