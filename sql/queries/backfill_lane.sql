-- What the backfill lane of accounts has before it, and what slots there are for it.
-- In:  $1 accounts text[], $2 how many of the newest attempts to look at int, $3 seconds after which a worker that says
--      nothing is gone float8.
-- Out: a row for each, registered or not: the limit that the API told; how many slots are free, how many held back, and in
--      how many seconds each that is not held back is free, soonest first (null: more than a thousand of them); requests
--      that go before or beside: live ones that are due, and those of the backfill lane, with what has arrived; the pause, if there is one (for how many more seconds; null: until a person says so); how many
--      workers are alive for it; and how long answers took (s; null: none).
-- Counts what is in the queue: some hundred milliseconds for a million; what the queue has not taken in takes longer.
SELECT asked.account, a.account IS NOT NULL AS registered, a.told_limit,
       slots.free, slots.held_back, slots.free_in_s,
       due.live + arrived.live AS live_due, due.backfill + arrived.backfill AS backfill_due,
       pause.kind AS pause_kind, pause.reason AS pause_reason, pause.for_s AS paused_for_s,
       alive.workers, answers.mean_s AS answer_s
FROM unnest($1::text[]) AS asked (account)
LEFT JOIN caspen_sync.account a ON a.account = asked.account
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE r.free_at <= now())::int AS free,
           count(*) FILTER (WHERE r.held_until > now() AND r.free_at = r.held_until)::int AS held_back,
           CASE WHEN count(*) <= 1000
                THEN array_agg((extract(epoch FROM greatest(r.free_at, now()) - now()))::float8 ORDER BY r.free_at)
                     FILTER (WHERE r.held_until IS NULL OR r.held_until <= now() OR r.free_at <> r.held_until) END AS free_in_s
    FROM caspen_sync.rate_slot r WHERE r.account = asked.account
) AS slots
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.lane = 'live' AND q.due_at <= now())::int AS live,
           count(*) FILTER (WHERE q.lane = 'backfill')::int AS backfill
    FROM caspen_sync.queue q
    WHERE q.account = asked.account AND q.lane IN ('live', 'backfill') AND q.due_at < 'infinity'
) AS due
CROSS JOIN LATERAL (
    -- What the queue has not taken in is a request for each appointment, unless that is in the queue already.
    SELECT count(*) FILTER (WHERE n.lane = 'live')::int AS live,
           count(*) FILTER (WHERE n.lane = 'backfill' AND q.found IS NULL)::int AS backfill
    FROM (
        SELECT DISTINCT x.lane, x.appointment_id FROM caspen_sync.arrival x
        WHERE x.account = asked.account AND x.lane IN ('live', 'backfill')
    ) AS n
    LEFT JOIN LATERAL (
        SELECT true AS found FROM caspen_sync.queue q
        WHERE q.account = asked.account AND q.appointment_id = n.appointment_id AND q.due_at < 'infinity'
        LIMIT 1
    ) AS q ON true
) AS arrived
CROSS JOIN LATERAL (
    SELECT count(*)::int AS workers FROM caspen_sync.worker w
    WHERE w.account = asked.account AND w.seen_at > now() - make_interval(secs => $3)
) AS alive
CROSS JOIN LATERAL (
    SELECT avg(t.duration_ms) / 1000 AS mean_s
    FROM (
        SELECT t.duration_ms, t.http_status FROM caspen_sync.attempt t
        WHERE t.account = asked.account
        ORDER BY t.started_at DESC
        LIMIT $2
    ) AS t
    WHERE t.http_status IS NOT NULL
) AS answers
LEFT JOIN LATERAL (
    SELECT a.pause_kind AS kind, a.pause_reason AS reason,
           CASE WHEN a.pause_kind <> 'manual'
                THEN greatest(0, extract(epoch FROM a.paused_until - clock_timestamp()))::float8 END AS for_s
    WHERE a.pause_kind IS NOT NULL AND (a.pause_kind <> 'throttled' OR a.paused_until > now())
) AS pause ON true
ORDER BY asked.account
