-- The first few parked changes and why.
-- Out: a row for each.
SELECT id, appointment_id, last_error
FROM caspen_sync.outbox
WHERE account = 'default' AND state = 'parked'
ORDER BY id
LIMIT 5
