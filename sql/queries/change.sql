-- One change, whatever became of it, without its body.
-- In:  $1 account text, $2 id bigint.
-- Out: a row, if there is such a change: with the fields that it sets, and those of them that newer changes have set since.
--      When it was written is null where that is no time of a calendar, such as infinity: a writer may say anything.
SELECT o.id, o.account, o.appointment_id, o.lane, o.source,
       CASE WHEN o.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN o.created_at END AS created_at,
       o.state, o.finished_at, o.attempts, o.last_error AS error, named.fields, named.superseded
FROM caspen_sync.outbox o
LEFT JOIN LATERAL ( -- the limit: else the planner joins the account's appointments, where it has seen none
    SELECT x.set_by FROM caspen_sync.appointment x
    WHERE x.account = o.account AND x.appointment_id = o.appointment_id LIMIT 1
) AS s ON true
CROSS JOIN LATERAL (
    SELECT array_agg(key.field ORDER BY key.field) AS fields,
           coalesce(array_agg(key.field ORDER BY key.field) FILTER (WHERE (s.set_by ->> key.field)::bigint > o.id), '{}')
               AS superseded
    FROM jsonb_object_keys(o.changes) AS key (field)
) AS named
WHERE o.account = $1 AND o.id = $2
