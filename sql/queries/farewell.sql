-- Takes this process off the list of the living.
-- In:  $1 accounts text[], $2 worker text.
DELETE FROM caspen_sync.worker w
USING unnest($1::text[]) AS mine (account)
WHERE w.account = mine.account AND w.worker = $2
