-- How many appointments a backfill has pending changes of.
-- In:  $1 name text.
-- Out: a row for each account that has any.
-- Reads every pending change of the accounts: about a second for a million.
SELECT b.account, waiting.appointments
FROM caspen_sync.backfill b
CROSS JOIN LATERAL (
    SELECT count(DISTINCT o.appointment_id) AS appointments
    FROM caspen_sync.outbox o
    WHERE o.account = b.account AND o.state = 'pending' AND o.lane = 'backfill' AND o.source = b.name
) AS waiting
WHERE b.name = $1 AND waiting.appointments > 0
ORDER BY b.account
