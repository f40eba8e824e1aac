-- The accounts whose token the API refuses.
-- In:  $1 accounts text[].
-- Out: a row for each: the reason, as the pause has it.
SELECT a.account, a.pause_reason AS reason
FROM caspen_sync.account a
WHERE a.account = ANY ($1::text[]) AND a.pause_kind = 'refused'
