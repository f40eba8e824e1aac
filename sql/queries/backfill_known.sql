-- What there is of a backfill already.
-- In:  $1 accounts text[], $2 name text.
-- Out: a row for each account that it was loaded for: up to which line it was loaded, how many lines are accepted and not
--      loaded yet, and why nothing is added to it any more (null: it may be).
SELECT b.account, b.loaded_nth, b.lines - b.loaded AS unloaded,
       CASE WHEN b.cancelled_at IS NOT NULL THEN 'was cancelled'
            WHEN b.forgotten_at IS NOT NULL AND b.accepted_nth > 0 THEN 'is older than the retention, so it is not known any more what it loaded'
       END AS ended
FROM unnest($1::text[]) AS asked (account)
CROSS JOIN LATERAL (
    SELECT b.account, b.accepted_nth, b.loaded_nth, b.lines, b.loaded, b.cancelled_at, b.forgotten_at FROM caspen_sync.backfill b
    WHERE b.account = asked.account AND b.name = $2
    LIMIT 1
) AS b
ORDER BY b.account
