-- The backfills, and how far they are.
-- In:  $1 name text (null: all).
-- Out: a row for each account and name, the newest first.
-- Counts every pending change of their accounts: one to two seconds for a million.
WITH asked AS MATERIALIZED (
    SELECT b.account, b.name, b.started_at, b.started_by, b.lines, b.loaded, b.outdated, b.left_out, b.discarded, b.loaded_at,
           b.accepted_nth, b.loaded_nth, b.cancelled_at, b.cancelled_by, b.forgotten_at
    FROM caspen_sync.backfill b
    WHERE $1::text IS NULL OR b.name = $1
), accounts AS (
    SELECT DISTINCT account FROM asked
), pending AS MATERIALIZED (
    SELECT a.account, o.source, count(*) AS changes
    FROM accounts a
    JOIN caspen_sync.outbox o ON o.account = a.account AND o.state = 'pending' AND o.lane = 'backfill'
    GROUP BY a.account, o.source
), parked AS MATERIALIZED (
    SELECT a.account, o.source, count(*) AS changes
    FROM accounts a
    JOIN caspen_sync.outbox o ON o.account = a.account AND o.state = 'parked' AND o.lane = 'backfill'
    GROUP BY a.account, o.source
)
SELECT b.account, b.name, b.started_at, b.started_by, b.lines, b.loaded, b.outdated, b.left_out, b.discarded, b.loaded_at,
       b.loaded_nth < b.accepted_nth OR b.accepted_nth = 0 AS unloaded, b.cancelled_at, b.cancelled_by, b.forgotten_at,
       coalesce(p.changes, 0) AS pending, coalesce(k.changes, 0) AS parked
FROM asked b
LEFT JOIN pending p ON p.account = b.account AND p.source = b.name
LEFT JOIN parked k ON k.account = b.account AND k.source = b.name
ORDER BY max(b.started_at) OVER (PARTITION BY b.name) DESC, b.name, b.account
