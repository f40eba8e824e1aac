-- What a run that found nothing due would leave behind.
-- In:  $1 accounts text[], $2 how long a lease can last float8 (s), which bounds the search for leases.
-- Out: one row: whether any appointment is due now, whether any backs off or rests, and for how many more seconds the
--      leases that are out now last (null: none).
SELECT coalesce(bool_or(due.found), false) AS due,
       coalesce(bool_or(waiting.found), false) AS waiting,
       max(leased.for_s) AS leased_for_s
FROM unnest($1::text[]) AS asked (account)
CROSS JOIN (VALUES ('live'), ('backfill')) AS lanes (lane)
LEFT JOIN LATERAL (
    SELECT true AS found
    FROM caspen_sync.queue q
    CROSS JOIN LATERAL (
        -- What rests after a change was given up has nothing to send.
        SELECT FROM caspen_sync.outbox o
        WHERE o.account = q.account AND o.appointment_id = q.appointment_id AND o.state = 'pending'
        LIMIT 1
    ) AS pending
    WHERE q.account = asked.account AND q.lane = lanes.lane AND q.due_at <= now() AND q.due_at < 'infinity'
    LIMIT 1
) AS due ON true
LEFT JOIN LATERAL (
    SELECT true AS found
    FROM caspen_sync.queue q
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.outbox o
        WHERE o.account = q.account AND o.appointment_id = q.appointment_id AND o.state = 'pending'
        LIMIT 1
    ) AS pending
    WHERE q.account = asked.account AND q.lane = lanes.lane AND q.due_at > now() AND q.due_at < 'infinity'
      AND q.leased_until IS NULL
    LIMIT 1
) AS waiting ON true
CROSS JOIN LATERAL (
    SELECT (extract(epoch FROM max(q.leased_until) - now()))::float8 AS for_s FROM caspen_sync.queue q
    WHERE q.account = asked.account AND q.lane = lanes.lane
      AND q.due_at > now() AND q.due_at < now() + make_interval(secs => $2) AND q.due_at < 'infinity'
      AND q.leased_until IS NOT NULL
) AS leased
