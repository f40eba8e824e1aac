-- Accepts what was read: from now on it will be loaded, by this process or the next.
-- In:  $1 account text, $2 name text, $3 token uuid, $4 up to this nth bigint, $5 how many lines are new bigint.
-- Out: one row: how many lines are not in the outbox yet.
UPDATE caspen_sync.backfill b
SET accepted_nth = CASE WHEN $5 = 0 THEN b.accepted_nth ELSE $4 END, lines = b.lines + $5, loaded_at = CASE WHEN $5 = 0 THEN b.loaded_at END
WHERE b.account = $1 AND b.name = $2 AND b.token = $3
RETURNING b.lines - b.loaded AS unloaded
