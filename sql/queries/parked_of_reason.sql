-- The ids of parked changes, oldest first.
-- In:  $1 account text, $2 digest of the reason text, as parked_reasons.sql gives it, each null for any; $3 only ids above this
--      bigint; $4 most rows int.
-- Out: a row for each.
SELECT o.id
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT o.id
    FROM caspen_sync.outbox o
    WHERE o.account = a.account AND o.state = 'parked' AND o.id > $3
      AND ($2::text IS NULL OR md5(coalesce(o.last_error, '')) = $2)
    ORDER BY o.id
    LIMIT $4
) AS o
WHERE $1::text IS NULL OR a.account = $1
ORDER BY o.id
LIMIT $4
