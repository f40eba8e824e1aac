-- The same for one account of it, whose lines are about to come; see backfill_begin.sql.
-- In:  $1 account text, $2 name text, $3 token uuid, $4 who text.
-- Out: one row: the lines up to this one are accepted.
INSERT INTO caspen_sync.backfill AS b (account, name, token, started_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account, name) DO UPDATE SET token = excluded.token
RETURNING b.accepted_nth
