-- A person gives a backfill up. Whoever loads it is stopped by the new token.
-- In:  $1 name text, $2 who text.
-- Out: a row for each account that has it: what is behind this nth is not loaded, how many lines that is, and the token.
UPDATE caspen_sync.backfill b
SET token = gen_random_uuid(),
    cancelled_at = coalesce(b.cancelled_at, clock_timestamp()),
    cancelled_by = coalesce(b.cancelled_by, $2)
WHERE b.name = $1
RETURNING b.account, b.loaded_nth, b.lines - b.loaded AS unloaded, b.token
