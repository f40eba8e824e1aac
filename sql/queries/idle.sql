-- Whether accounts have nothing to do at all: no change has arrived, no appointment is due, waiting or leased.
-- In:  $1 accounts text[].
-- Out: one row.
SELECT NOT EXISTS (
    SELECT
    FROM unnest($1::text[]) AS asked (account)
    CROSS JOIN (VALUES ('live'), ('backfill')) AS lanes (lane)
    CROSS JOIN LATERAL (
        (SELECT true FROM caspen_sync.arrival x
         WHERE x.account = asked.account AND x.lane = lanes.lane LIMIT 1)
        UNION ALL
        (SELECT true FROM caspen_sync.queue q
         WHERE q.account = asked.account AND q.lane = lanes.lane AND q.due_at < 'infinity' LIMIT 1)
    ) AS something
) AS idle
