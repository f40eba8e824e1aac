-- How each account is.
-- Out: a row for each: changes pending in each lane, the age of the oldest (s), how many are parked, appointments on the
--      wire and backing off, the budget, and the pause, if there is one (for how many more seconds; null: until a person
--      says so).
-- Counts every pending change.
SELECT a.account, pending.live, pending.backfill, pending.oldest_s, parked.changes AS parked,
       queue.in_flight, queue.waiting,
       least(a.rate_limit, a.told_limit) AS budget_limit, a.rate_limit AS budget_configured, slots.free AS budget_free,
       a.rate_window_s AS window_s,
       pause.kind AS pause_kind, pause.reason AS pause_reason, pause.for_s AS paused_for_s, pause.since AS paused_at
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE o.lane = 'live')::int AS live, count(*) FILTER (WHERE o.lane = 'backfill')::int AS backfill,
           (extract(epoch FROM clock_timestamp() - min(o.created_at)))::float8 AS oldest_s
    FROM caspen_sync.outbox o WHERE o.account = a.account AND o.state = 'pending'
) AS pending
CROSS JOIN LATERAL (
    SELECT count(*)::int AS changes FROM caspen_sync.outbox o WHERE o.account = a.account AND o.state = 'parked'
) AS parked
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.leased_until IS NOT NULL)::int AS in_flight,
           count(*) FILTER (WHERE q.leased_until IS NULL)::int AS waiting
    FROM caspen_sync.queue q
    WHERE q.account = a.account AND q.lane IN ('live', 'backfill') AND q.due_at > now() AND q.due_at < 'infinity'
) AS queue
CROSS JOIN LATERAL (
    SELECT count(*)::int AS free FROM caspen_sync.rate_slot r WHERE r.account = a.account AND r.free_at <= now()
) AS slots
LEFT JOIN LATERAL (
    SELECT a.pause_kind AS kind, a.pause_reason AS reason, a.paused_at AS since,
           CASE WHEN a.pause_kind <> 'manual'
                THEN greatest(0, extract(epoch FROM a.paused_until - clock_timestamp()))::float8 END AS for_s
    WHERE a.pause_kind IS NOT NULL AND (a.pause_kind <> 'throttled' OR a.paused_until > now())
) AS pause ON true
ORDER BY a.account
