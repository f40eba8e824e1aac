-- How each account is, as far as that costs next to nothing: for who asks twice a second.
-- Out: a row for each: the budget, with in how many seconds each slot that is not held back is free, soonest first (null: more
--      than a thousand of them); and the pause, if there is one (for how many more seconds; null: until a person says so).
SELECT a.account, budget.slots AS budget_limit, a.rate_limit AS budget_configured, slots.free AS budget_free, slots.held_back, slots.free_in_s,
       greatest(0, budget.slots - slots.free - slots.held_back) AS budget_used,
       floor(budget.slots * a.live_reserve)::int AS budget_reserve,
       a.rate_window_s AS window_s, a.rate_guard_s AS guard_s,
       pause.kind AS pause_kind, pause.reason AS pause_reason, pause.for_s AS paused_for_s, pause.since AS paused_at
FROM caspen_sync.account a
CROSS JOIN LATERAL (SELECT least(a.rate_limit, a.told_limit) AS slots) AS budget
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE r.free_at <= now())::int AS free,
           count(*) FILTER (WHERE r.held_until > now() AND r.free_at = r.held_until)::int AS held_back,
           CASE WHEN count(*) <= 1000
                THEN array_agg((extract(epoch FROM greatest(r.free_at, now()) - now()))::float8 ORDER BY r.free_at)
                     FILTER (WHERE r.held_until IS NULL OR r.held_until <= now() OR r.free_at <> r.held_until) END AS free_in_s
    FROM caspen_sync.rate_slot r WHERE r.account = a.account
) AS slots
LEFT JOIN LATERAL (
    SELECT a.pause_kind AS kind, a.pause_reason AS reason, a.paused_at AS since,
           CASE WHEN a.pause_kind <> 'manual'
                THEN greatest(0, extract(epoch FROM a.paused_until - clock_timestamp()))::float8 END AS for_s
    WHERE a.pause_kind IS NOT NULL AND (a.pause_kind <> 'throttled' OR a.paused_until > now())
) AS pause ON true
ORDER BY a.account
