-- How each account is.
-- Out: a row for each: changes pending in each lane, the age of the oldest (s), how many of them the queue has not taken in
--      yet and how many are parked; appointments on the wire, backing off (and in how many seconds the first of them is due
--      again) and due, those in the backfill lane besides; the budget, with in how many seconds each slot that is not held back is free,
--      soonest first (null: more than a thousand of them); and the pause, if there is one (for how many more
--      seconds; null: until a person says so).
-- Counts every pending change: one to two seconds for a million. Whoever asks again and again does so by worker/reading.py.
SELECT a.account, pending.live, pending.backfill, pending.oldest_s, arrived.changes AS arrived, parked.changes AS parked,
       later.in_flight, later.waiting, later.next_due_s, due.appointments AS due, due.backfill AS due_backfill,
       budget.slots AS budget_limit, a.rate_limit AS budget_configured, slots.free AS budget_free, slots.held_back, slots.free_in_s,
       greatest(0, budget.slots - slots.free - slots.held_back) AS budget_used,
       floor(budget.slots * a.live_reserve)::int AS budget_reserve,
       a.rate_window_s AS window_s, a.rate_guard_s AS guard_s,
       pause.kind AS pause_kind, pause.reason AS pause_reason, pause.for_s AS paused_for_s, pause.since AS paused_at
FROM caspen_sync.account a
CROSS JOIN LATERAL (SELECT least(a.rate_limit, a.told_limit) AS slots) AS budget
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE o.lane = 'live')::int AS live, count(*) FILTER (WHERE o.lane = 'backfill')::int AS backfill,
           (extract(epoch FROM clock_timestamp() - min(o.created_at) FILTER (WHERE isfinite(o.created_at))))::float8 AS oldest_s
    FROM caspen_sync.outbox o WHERE o.account = a.account AND o.state = 'pending'
) AS pending
CROSS JOIN LATERAL (
    SELECT count(*)::int AS changes FROM caspen_sync.arrival x
    WHERE x.account = a.account AND x.lane IN ('live', 'backfill')
) AS arrived
CROSS JOIN LATERAL (
    SELECT count(*)::int AS changes FROM caspen_sync.outbox o WHERE o.account = a.account AND o.state = 'parked'
) AS parked
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.leased_until IS NOT NULL)::int AS in_flight,
           count(*) FILTER (WHERE q.leased_until IS NULL)::int AS waiting,
           (extract(epoch FROM min(q.due_at) FILTER (WHERE q.leased_until IS NULL) - now()))::float8 AS next_due_s
    FROM caspen_sync.queue q
    WHERE q.account = a.account AND q.lane IN ('live', 'backfill') AND q.due_at > now() AND q.due_at < 'infinity'
) AS later
CROSS JOIN LATERAL (
    -- Apart from the above, since all that it reads is in the index.
    SELECT count(*)::int AS appointments, count(*) FILTER (WHERE q.lane = 'backfill')::int AS backfill
    FROM caspen_sync.queue q
    WHERE q.account = a.account AND q.lane IN ('live', 'backfill') AND q.due_at <= now() AND q.due_at < 'infinity'
) AS due
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
