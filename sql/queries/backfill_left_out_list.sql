-- What was left out of a backfill's lines: one page, in the order of the lines.
-- In:  $1 account text, $2 name text, $3 behind this nth bigint, $4 rows int.
-- Out: a row for each line.
SELECT l.account, l.nth, l.line, l.appointment_id, l.change_id, l.fields, l.newer
FROM caspen_sync.backfill_left_out l
WHERE l.account = $1 AND l.name = $2 AND l.nth > $3
ORDER BY l.nth
LIMIT $4
