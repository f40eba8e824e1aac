-- How far the changes are, and how many requests they took. Counts every row: for the demo's few hundred.
-- Out: one row.
SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
       count(*) FILTER (WHERE state = 'synced') AS synced,
       count(*) FILTER (WHERE state = 'parked') AS parked,
       (SELECT count(*) FROM caspen_sync.attempt WHERE account = 'default') AS requests
FROM caspen_sync.outbox
WHERE account = 'default'
