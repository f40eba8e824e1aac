-- In which state changes are, whatever account they belong to.
-- In:  $1 ids bigint[].
-- Out: a row for each that there is.
SELECT o.id, o.state
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT o.id, o.state FROM caspen_sync.outbox o WHERE o.account = a.account AND o.id = ANY ($1::bigint[])
) AS o
