-- What a run that found nothing due would leave behind.
-- In:  $1 accounts text[], $2 how long a lease can last float8 (s), which bounds the search for leases.
-- Out: one row: whether any appointment is due now, whether any backs off or rests, and for how many more seconds the
--      leases that are out now last (null: none).
SELECT
    EXISTS (SELECT FROM unnest($1::text[]) AS w (account)
            JOIN caspen_sync.queue q ON q.account = w.account AND q.lane IN ('live', 'backfill')
            WHERE q.due_at <= now() AND q.due_at < 'infinity') AS due,
    EXISTS (SELECT FROM unnest($1::text[]) AS w (account)
            JOIN caspen_sync.queue q ON q.account = w.account AND q.lane IN ('live', 'backfill')
            WHERE q.due_at > now() AND q.due_at < 'infinity' AND q.leased_until IS NULL) AS waiting,
    (SELECT max(extract(epoch FROM q.leased_until - now()))::float8
     FROM unnest($1::text[]) AS w (account)
     JOIN caspen_sync.queue q ON q.account = w.account AND q.lane IN ('live', 'backfill')
     WHERE q.due_at > now() AND q.due_at < now() + make_interval(secs => $2) AND q.leased_until IS NOT NULL
    ) AS leased_for_s
