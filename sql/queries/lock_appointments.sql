-- Locks the queue's rows of the appointments of changes until the transaction ends, so that nobody claims or settles them.
-- In:  $1 account text, $2 ids bigint[].
-- Why accounts are compared with an array of one: see claim.sql.
SELECT q.appointment_id
FROM (SELECT DISTINCT account, appointment_id FROM caspen_sync.outbox WHERE account = $1 AND id = ANY ($2::bigint[])) AS o
JOIN caspen_sync.queue q ON q.account = ANY (ARRAY[o.account]) AND q.appointment_id = o.appointment_id
ORDER BY o.account, o.appointment_id
FOR UPDATE OF q
