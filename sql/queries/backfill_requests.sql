-- How much the backfill lane has to do.
-- In:  $1 accounts text[].
-- Out: a row for each: how many requests, which is the appointments that wait in the lane, on the wire and backing off too,
--      and the changes that the queue has not taken in yet, at most; and when that was. All that it reads is in indexes.
SELECT asked.account, queued.appointments + arrived.changes AS requests, now() AS counted_at
FROM unnest($1::text[]) AS asked (account)
CROSS JOIN LATERAL (
    SELECT count(*) AS appointments FROM caspen_sync.queue q
    WHERE q.account = asked.account AND q.lane = 'backfill' AND q.due_at < 'infinity'
) AS queued
CROSS JOIN LATERAL (
    SELECT count(*) AS changes FROM caspen_sync.arrival x WHERE x.account = asked.account AND x.lane = 'backfill'
) AS arrived
