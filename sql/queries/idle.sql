-- Whether accounts have nothing to do at all: no change has arrived, no appointment is due, waiting or leased.
-- In:  $1 accounts text[].
-- Out: one row.
SELECT NOT EXISTS (SELECT FROM unnest($1::text[]) AS w (account)
                   JOIN caspen_sync.arrival a ON a.account = w.account AND a.lane IN ('live', 'backfill'))
   AND NOT EXISTS (SELECT FROM unnest($1::text[]) AS w (account)
                   JOIN caspen_sync.queue q ON q.account = w.account AND q.lane IN ('live', 'backfill')
                   WHERE q.due_at < 'infinity') AS idle
