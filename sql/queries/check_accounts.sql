-- The accounts that have changes to be sent, and whether anybody works for them.
-- In:  $1 how lately a worker has to have said that it is alive float8 (s).
-- Out: a row for each.
--
-- From one account to the next, by index: it costs as many steps as there are accounts, however many changes there are.
-- What is not taken in yet stands in `arrival`, what is, in the queue, where rows that have nothing to send are not in
-- the index of due ones; the order of that index is asked for, so that no other offers itself.
WITH RECURSIVE arrived (account) AS (
    (SELECT a.account FROM caspen_sync.arrival a ORDER BY a.account, a.lane, a.change_id LIMIT 1)
    UNION ALL
    SELECT next.account
    FROM arrived
    CROSS JOIN LATERAL (
        SELECT a.account FROM caspen_sync.arrival a
        WHERE a.account > arrived.account ORDER BY a.account, a.lane, a.change_id LIMIT 1
    ) AS next
), queued (account) AS (
    (SELECT q.account FROM caspen_sync.queue q WHERE q.due_at < 'infinity' ORDER BY q.account, q.lane, q.due_at LIMIT 1)
    UNION ALL
    SELECT next.account
    FROM queued
    CROSS JOIN LATERAL (
        SELECT q.account FROM caspen_sync.queue q
        WHERE q.account > queued.account AND q.due_at < 'infinity' ORDER BY q.account, q.lane, q.due_at LIMIT 1
    ) AS next
)
SELECT p.account, EXISTS (SELECT FROM caspen_sync.worker w
                          WHERE w.account = p.account
                            AND w.seen_at > clock_timestamp() - make_interval(secs => $1)) AS served
FROM (SELECT account FROM arrived UNION SELECT account FROM queued) AS p
ORDER BY p.account
