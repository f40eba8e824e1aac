-- Makes the account's slots exactly as many as its limit. Runs after register_account, in the same transaction.
-- In:  $1 account text, $2 rate_limit int.
--
-- New slots are free at once. Of too many, those that have rested longest go: the ones that stay stand for the requests
-- that the API still counts.
WITH counted AS (
    SELECT count(*)::int AS slots FROM caspen_sync.rate_slot WHERE account = $1
), added AS (
    INSERT INTO caspen_sync.rate_slot (account, slot, free_at)
    SELECT $1, n, '-infinity'
    FROM generate_series(1, $2::int) AS n
    WHERE NOT EXISTS (SELECT FROM caspen_sync.rate_slot r WHERE r.account = $1 AND r.slot = n)
    ORDER BY n
    LIMIT greatest(0, $2 - (SELECT slots FROM counted))
)
DELETE FROM caspen_sync.rate_slot r
WHERE r.account = $1
  AND r.slot IN (SELECT slot FROM caspen_sync.rate_slot WHERE account = $1 ORDER BY free_at, slot
                 LIMIT greatest(0, (SELECT slots FROM counted) - $2))
