-- Locks the queue's rows of the appointments of changes until the transaction ends, so that nobody claims or settles them.
-- In:  $1 account text, $2 ids bigint[].
SELECT q.appointment_id
FROM (SELECT DISTINCT account, appointment_id FROM caspen_sync.outbox WHERE account = $1 AND id = ANY ($2::bigint[])) AS o
JOIN caspen_sync.queue q USING (account, appointment_id)
ORDER BY q.account, q.appointment_id
FOR UPDATE OF q
