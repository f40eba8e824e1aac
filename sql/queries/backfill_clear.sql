-- Takes a backfill off the list that has accepted nothing, by a process that holds it.
-- In:  $1 account text, $2 name text, $3 token uuid.
-- Out: nothing.
DELETE FROM caspen_sync.backfill b
WHERE b.account = $1 AND b.name = $2 AND b.token = $3 AND b.accepted_nth = 0
