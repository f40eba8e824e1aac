-- The lines that a backfill has already, a page of them.
-- In:  $1 account text, $2 name text, $3 the line to go on behind bigint, $4 the last one that was accepted bigint,
--      $5 most rows int.
-- Out: a row for each line, in their order.
SELECT l.nth, l.appointment_id, l.digest
FROM caspen_sync.backfill_line l
WHERE l.account = $1 AND l.name = $2 AND l.nth > $3 AND l.nth <= $4
ORDER BY l.nth
LIMIT $5
