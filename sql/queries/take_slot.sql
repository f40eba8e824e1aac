-- Takes one more slot for a claim that is held already: each retry costs budget of its own.
-- In:  $1 account text, $2 lane text, $3 request timeout float8 (s).
-- Out: the slot and when it is free again; no row when none is to be had, or the account is paused.
WITH asked AS (
    SELECT a.account, make_interval(secs => 2 * $3 + a.rate_window_s + a.rate_guard_s) AS worst_case,
           CASE WHEN $2::text = 'live' THEN 0 ELSE floor(least(a.rate_limit, a.told_limit) * a.live_reserve)::int END AS reserve
    FROM caspen_sync.account a
    WHERE a.account = $1 AND (a.paused_until IS NULL OR (a.pause_kind = 'throttled' AND a.paused_until <= now()))
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
RETURNING r.slot, r.free_at
