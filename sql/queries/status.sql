-- What waits in each account.
-- Out: a row for each: changes pending in each lane, the age of the oldest (s), how many of them the queue has not taken in
--      yet and how many are parked; appointments on the wire, backing off (and in how many seconds the first of them is due
--      again) and due, those in the backfill lane besides.
-- Counts every pending change: one to two seconds for a million. Whoever asks again and again does so by worker/reading.py.
SELECT a.account, pending.live, pending.backfill, pending.oldest_s, arrived.changes AS arrived, parked.changes AS parked,
       later.in_flight, later.waiting, later.next_due_s, due.appointments AS due, due.backfill AS due_backfill
FROM caspen_sync.account a
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
ORDER BY a.account
