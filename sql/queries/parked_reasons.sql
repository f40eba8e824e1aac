-- Why changes are parked.
-- In:  $1 most rows int.
-- Out: a row for each reason, the one with the most changes first: its digest, by which parked_of_reason.sql knows it, how many
--      changes and in how many accounts, and when the first and the last of them were parked.
--
-- By account first: reasons are few, so that digests are made of few, and nothing has to be sorted.
SELECT md5(r.reason) AS digest, min(left(r.reason, 1000)) AS error, sum(r.changes)::int AS changes, count(*)::int AS accounts,
       min(r.first_at) AS first_at, max(r.last_at) AS last_at
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT coalesce(o.last_error, '') AS reason, count(*) AS changes, min(o.finished_at) AS first_at, max(o.finished_at) AS last_at
    FROM caspen_sync.outbox o
    WHERE o.account = a.account AND o.state = 'parked'
    GROUP BY coalesce(o.last_error, '')
) AS r
GROUP BY md5(r.reason)
ORDER BY changes DESC, digest
LIMIT $1
