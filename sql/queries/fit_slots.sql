-- Makes the account's slots exactly as many as its limit. Runs after register_account or tell_limit and lock_slots, in
-- the same transaction.
-- In:  $1 account text, $2 slots int, $3 request timeout float8 (s).
--
-- The first slots of an account are free at once. Later ones rest for the worst case first: they may come in the place
-- of slots that were taken away while their requests were on the wire. Of too many, those that have rested longest go.
WITH counted AS (
    SELECT count(*)::int AS slots FROM caspen_sync.rate_slot WHERE account = $1
), added AS (
    INSERT INTO caspen_sync.rate_slot (account, slot, free_at)
    SELECT $1, n, CASE WHEN (SELECT slots FROM counted) = 0 THEN '-infinity'
                       ELSE now() + (SELECT make_interval(secs => 2 * $3 + a.rate_window_s + a.rate_guard_s)
                                     FROM caspen_sync.account a WHERE a.account = $1) END
    FROM generate_series(1, $2::int) AS n
    WHERE NOT EXISTS (SELECT FROM caspen_sync.rate_slot r WHERE r.account = $1 AND r.slot = n)
    ORDER BY n
    LIMIT greatest(0, $2 - (SELECT slots FROM counted))
)
DELETE FROM caspen_sync.rate_slot r
WHERE r.account = $1
  AND r.slot IN (SELECT slot FROM caspen_sync.rate_slot WHERE account = $1 ORDER BY free_at, slot
                 LIMIT greatest(0, (SELECT slots FROM counted) - $2))
