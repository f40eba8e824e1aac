-- What one change says, and what the API said to it.
-- In:  $1 account text, $2 id bigint.
-- Out: one row: changes, messages (null: nothing was kept).
SELECT o.changes, r.messages
FROM caspen_sync.outbox o
LEFT JOIN caspen_sync.rejection r ON r.account = o.account AND r.change_id = o.id
WHERE o.account = $1 AND o.id = $2
