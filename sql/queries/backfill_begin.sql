-- A process begins to load a backfill: from now on nobody else does, who did so before.
-- In:  $1 accounts text[], $2 name text, $3 token uuid.
-- Out: a row for each account that has a backfill of that name: whether a person cancelled it, who and when, and when its
--      lines were forgotten; then it is not touched. One that had accepted nothing had nothing to forget.
UPDATE caspen_sync.backfill b
SET token = CASE WHEN b.cancelled_at IS NULL AND (b.forgotten_at IS NULL OR b.accepted_nth = 0) THEN $3 ELSE b.token END,
    touched_at = CASE WHEN b.cancelled_at IS NULL AND (b.forgotten_at IS NULL OR b.accepted_nth = 0) THEN clock_timestamp() ELSE b.touched_at END,
    forgotten_at = CASE WHEN b.accepted_nth > 0 THEN b.forgotten_at END
WHERE b.account = ANY ($1::text[]) AND b.name = $2
RETURNING b.account, b.cancelled_at, b.cancelled_by, b.forgotten_at
