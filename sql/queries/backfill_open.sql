-- The same for one account of it, whose lines are about to come; see backfill_begin.sql.
-- In:  $1 account text, $2 name text, $3 token uuid, $4 who text.
-- Out: one row: the lines up to this one are accepted; and whether a person cancelled it, who, and when its lines were
--      forgotten: then it is not touched.
-- Who began later keeps it: of two, one has all accounts, in whatever order they come by them.
INSERT INTO caspen_sync.backfill AS b (account, name, token, started_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account, name) DO UPDATE SET
    token = CASE WHEN b.cancelled_at IS NULL AND b.forgotten_at IS NULL THEN greatest(b.token, excluded.token) ELSE b.token END
RETURNING b.accepted_nth, b.cancelled_at, b.cancelled_by, b.forgotten_at
