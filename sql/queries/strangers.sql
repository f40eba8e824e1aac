-- Accounts that have changes and that no worker has ever taken up: new ones, or such as no configuration names.
-- In:  $1 most changes to count of each int.
-- Out: a row for each: how many changes ($1 may mean: or more), and the age of the oldest (s).
--
-- From one account to the next in the index, however many arrivals each of them has; a thousand of them, should a writer
-- make up a name each time.
WITH RECURSIVE arrived AS (
    SELECT min(first_name.account) AS account, 1 AS nth FROM caspen_sync.arrival first_name
    UNION ALL
    SELECT (SELECT min(x.account) FROM caspen_sync.arrival x WHERE x.account > a.account), a.nth + 1
    FROM arrived a
    WHERE a.account IS NOT NULL AND a.nth < 1000
)
SELECT s.account, counted.changes, CASE WHEN isfinite(oldest.created_at) THEN extract(epoch FROM clock_timestamp() - oldest.created_at)::float8 ELSE 0 END AS oldest_s
FROM arrived s
CROSS JOIN LATERAL (
    SELECT count(*)::int AS changes FROM (SELECT FROM caspen_sync.arrival x WHERE x.account = s.account LIMIT $1) AS first
) AS counted
CROSS JOIN LATERAL (
    -- Nothing of theirs is ever finished, so their first change is their oldest.
    SELECT o.created_at FROM caspen_sync.outbox o WHERE o.account = s.account ORDER BY o.id LIMIT 1
) AS oldest
WHERE s.account IS NOT NULL AND NOT EXISTS (SELECT FROM caspen_sync.account a WHERE a.account = s.account)
ORDER BY s.account
