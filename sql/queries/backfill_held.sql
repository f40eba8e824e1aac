-- Which of its accounts a loading process still holds. Until the end of the transaction nobody else takes them over.
-- In:  $1 accounts text[], $2 name text, $3 token uuid.
-- Out: a row for each.
SELECT b.account, b.accepted_nth
FROM caspen_sync.backfill b
WHERE b.account = ANY ($1::text[]) AND b.name = $2 AND b.token = $3
ORDER BY b.account
FOR NO KEY UPDATE
