-- Parked changes, oldest first, without their bodies.
-- In:  $1 account text, $2 appointment_id text, $3 parked since timestamptz, $4 part of the error text (in any case),
--      $5 ids bigint[], each null for any; $6 most rows int (null: all).
-- Out: a row for each: the change, the fields that it sets, and those of them that newer changes have set since.
--      When it was written is null where that is no time of a calendar, such as infinity: a writer may say anything.
SELECT o.id, o.account, o.appointment_id, o.lane, o.source,
       CASE WHEN o.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN o.created_at END AS created_at,
       o.finished_at AS parked_at, o.attempts, o.last_error AS error, named.fields, named.superseded
FROM caspen_sync.account a
CROSS JOIN LATERAL (
    SELECT o.id, o.account, o.appointment_id, o.lane, o.source, o.created_at, o.finished_at, o.attempts, o.last_error,
           o.changes
    FROM caspen_sync.outbox o
    WHERE o.account = a.account AND o.state = 'parked' AND ($5::bigint[] IS NULL OR o.id = ANY ($5))
      AND ($2::text IS NULL OR o.appointment_id = $2)
      AND ($3::timestamptz IS NULL OR o.finished_at >= $3)
      AND ($4::text IS NULL OR position(lower($4) IN lower(o.last_error)) > 0)
) AS o
LEFT JOIN caspen_sync.appointment s ON s.account = o.account AND s.appointment_id = o.appointment_id
CROSS JOIN LATERAL (
    SELECT array_agg(key.field ORDER BY key.field) AS fields,
           coalesce(array_agg(key.field ORDER BY key.field) FILTER (WHERE (s.set_by ->> key.field)::bigint > o.id), '{}')
               AS superseded
    FROM jsonb_object_keys(o.changes) AS key (field)
) AS named
WHERE $1::text IS NULL OR a.account = $1
ORDER BY o.id
LIMIT $6
