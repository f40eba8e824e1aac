-- Pending changes that nothing will make due: neither `arrival` nor the queue knows of them.
-- In:  $1 how many pending changes of each account to look at, int.
-- Out: a row for each account that has pending changes: how many were looked at, how many appointments among them nothing
--      will make due, and one of those.
--
-- From one account to the next by the index of pending changes, and along it for no more than $1 rows, so it costs the
-- same however long the backlog is. An appointment's newest change decides: a claim reads the older ones along with it.
-- What take_in will not make due, since its id is not above newest_id, is not known either.
WITH RECURSIVE waiting (account) AS (
    (SELECT o.account FROM caspen_sync.outbox o
     WHERE o.state = 'pending' ORDER BY o.account, o.appointment_id, o.id LIMIT 1)
    UNION ALL
    SELECT next.account
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT o.account FROM caspen_sync.outbox o
        WHERE o.account > waiting.account AND o.state = 'pending' ORDER BY o.account, o.appointment_id, o.id LIMIT 1
    ) AS next
)
SELECT waiting.account, sum(seen.changes)::int AS looked_at, count(*) FILTER (WHERE known.row IS NULL)::int AS unknown,
       min(seen.appointment_id) FILTER (WHERE known.row IS NULL) AS appointment_id
FROM waiting
CROSS JOIN LATERAL (
    SELECT bounded.appointment_id, max(bounded.id) AS newest_id, count(*) AS changes
    FROM (
        SELECT o.appointment_id, o.id FROM caspen_sync.outbox o
        WHERE o.account = waiting.account AND o.state = 'pending'
        ORDER BY o.appointment_id, o.id
        LIMIT $1
    ) AS bounded
    GROUP BY bounded.appointment_id
) AS seen
LEFT JOIN LATERAL (
    SELECT q.newest_id, q.due_at FROM caspen_sync.queue q
    WHERE q.account = waiting.account AND q.appointment_id = seen.appointment_id
    LIMIT 1
) AS queued ON true
LEFT JOIN LATERAL (
    SELECT 1 AS row WHERE queued.newest_id >= seen.newest_id AND queued.due_at < 'infinity'
    UNION ALL
    (SELECT 1 FROM caspen_sync.arrival a
     WHERE a.account = waiting.account AND a.lane IN ('live', 'backfill') AND a.change_id = seen.newest_id
       AND seen.newest_id > coalesce(queued.newest_id, 0))
    LIMIT 1
) AS known ON true
GROUP BY waiting.account
ORDER BY waiting.account
