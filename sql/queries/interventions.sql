-- What people did to a change, oldest first.
-- In:  $1 account text, $2 change id bigint.
-- Out: a row for each.
SELECT at, action, who, reason, left_out
FROM caspen_sync.intervention
WHERE account = $1 AND change_id = $2
ORDER BY id
