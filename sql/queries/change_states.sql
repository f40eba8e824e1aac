-- In which state changes are, and of which account.
-- In:  $1 ids bigint[].
-- Out: a row for each that there is.
SELECT o.account, o.id, o.state
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT o.account, o.id, o.state FROM caspen_sync.outbox o WHERE o.account = a.account AND o.id = ANY ($1::bigint[])
) AS o
