-- Why changes are parked.
-- In:  $1 most rows int.
-- Out: a row for each reason, the one with the most changes first: its digest, by which parked_of_reason.sql knows it, how many
--      changes and in how many accounts, and when the first and the last of them were parked.
SELECT md5(coalesce(o.last_error, '')) AS digest, min(left(coalesce(o.last_error, ''), 1000)) AS error, count(*)::int AS changes,
       count(DISTINCT o.account)::int AS accounts, min(o.finished_at) AS first_at, max(o.finished_at) AS last_at
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT o.account, o.last_error, o.finished_at
    FROM caspen_sync.outbox o
    WHERE o.account = a.account AND o.state = 'parked'
) AS o
GROUP BY md5(coalesce(o.last_error, ''))
ORDER BY changes DESC, digest
LIMIT $1
