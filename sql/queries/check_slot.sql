-- Takes one slot of an account's budget for a request that a person asks for, by the rule of take_slot: the reserve is
-- locked along and kept, and the slot rests for the worst case.
-- In:  $1 account text, $2 request timeout float8 (s).
-- Out: the slot; no row when none is to be had, while the API wants to be left alone (throttled), or when no worker has
--      registered the account.
--
-- Any other pause is no hindrance: whether the API still refuses the token is what the person wants to see.
WITH asked AS (
    SELECT a.account, make_interval(secs => 2 * $2 + a.rate_window_s + a.rate_guard_s) AS worst_case,
           floor(least(a.rate_limit, a.told_limit) * a.live_reserve)::int AS reserve
    FROM caspen_sync.account a
    WHERE a.account = $1 AND (a.pause_kind IS DISTINCT FROM 'throttled' OR a.paused_until <= now())
), free AS MATERIALIZED (
    SELECT r.slot, asked.reserve, asked.worst_case
    FROM asked
    CROSS JOIN LATERAL (
        SELECT r.slot
        FROM caspen_sync.rate_slot r
        WHERE r.account = asked.account AND r.free_at <= now()
        LIMIT 1 + asked.reserve
        FOR UPDATE SKIP LOCKED
    ) AS r
), chosen AS (
    SELECT min(slot) AS slot, min(worst_case) AS worst_case
    FROM free
    HAVING count(*) > min(reserve)
)
UPDATE caspen_sync.rate_slot r
SET free_at = now() + chosen.worst_case
FROM chosen
WHERE r.account = $1 AND r.slot = chosen.slot
RETURNING r.slot
