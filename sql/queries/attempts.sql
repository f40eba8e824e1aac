-- The requests that were made for an appointment, newest first.
-- In:  $1 account text (null: any), $2 appointment_id text, $3 change id bigint (null: any), $4 most rows int.
-- Out: a row for each.
SELECT t.account, t.started_at, t.duration_ms, t.outcome, t.http_status, t.change_ids, t.error, t.worker
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT t.id, t.account, t.started_at, t.duration_ms, t.outcome, t.http_status, t.change_ids, t.error, t.worker
    FROM caspen_sync.attempt t
    WHERE t.account = a.account AND t.appointment_id = $2 AND ($3::bigint IS NULL OR $3 = ANY (t.change_ids))
    ORDER BY t.id DESC
    LIMIT $4
) AS t
WHERE $1::text IS NULL OR a.account = $1
ORDER BY t.id DESC
LIMIT $4
