-- How an appointment is.
-- In:  $1 appointment_id text.
-- Out: a row for each account that knows it: how many of its changes are pending (1000 may be more); what the queue says of it,
--      if it is there: until it is due (s; null: it is idle), whether somebody holds it, and its failures in a row; and when the
--      API's last answer came, if there was one.
--
-- Limits keep the planner from joining whole tables, where it has seen them empty.
SELECT a.account, pending.changes AS pending,
       CASE WHEN q.due_at < 'infinity' THEN greatest(0, extract(epoch FROM q.due_at - now()))::float8 END AS due_in_s,
       coalesce(q.leased_until > now(), false) AS held, coalesce(q.failures, 0) AS failures, s.synced_at
FROM caspen_sync.account a
LEFT JOIN LATERAL (
    SELECT x.account, x.due_at, x.leased_until, x.failures
    FROM caspen_sync.queue x WHERE x.account = a.account AND x.appointment_id = $1 LIMIT 1
) AS q ON true
LEFT JOIN LATERAL (
    SELECT x.account, x.synced_at FROM caspen_sync.appointment x WHERE x.account = a.account AND x.appointment_id = $1 LIMIT 1
) AS s ON true
CROSS JOIN LATERAL (
    SELECT count(*)::int AS changes
    FROM (SELECT FROM caspen_sync.outbox o
          WHERE o.account = a.account AND o.appointment_id = $1 AND o.state = 'pending' LIMIT 1000) AS first
) AS pending
WHERE q.account IS NOT NULL OR s.account IS NOT NULL OR pending.changes > 0
ORDER BY a.account
