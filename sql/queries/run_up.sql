-- Writes down what failed, or was rejected, since the API did better last. Runs after lock_account, in its transaction.
-- In, as columns of equal length, each account, kind and appointment once: $1 account text[], $2 kind text[],
--     $3 appointment_id text[], $4 reason text[], $5 change ids text[] (each an array literal), $6 charged int[].
--
-- Rejections count while they are for one reason; another one starts anew. One that was found to be the changes' own
-- fault in the last hour counts as nobody's.
WITH told AS (
    SELECT t.account, t.kind, t.appointment_id, t.reason, t.change_ids::bigint[] AS change_ids, t.charged
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
        AS t (account, kind, appointment_id, reason, change_ids, charged)
    JOIN caspen_sync.account a USING (account)
    WHERE t.kind = 'down' OR a.known_reason IS DISTINCT FROM t.reason OR a.known_at < now() - interval '1 hour'
), other AS MATERIALIZED (
    SELECT u.account, u.appointment_id
    FROM (SELECT DISTINCT account, reason FROM told WHERE kind = 'rejected') AS t
    JOIN caspen_sync.account a USING (account)
    JOIN caspen_sync.run_up u USING (account)
    WHERE u.kind = 'rejected' AND u.reason <> t.reason AND a.pause_kind IS DISTINCT FROM 'rejected'
      AND NOT EXISTS (SELECT FROM told x
                      WHERE x.account = u.account AND x.kind = u.kind AND x.appointment_id = u.appointment_id)
    ORDER BY u.account, u.appointment_id
    FOR UPDATE OF u
), anew AS (
    DELETE FROM caspen_sync.run_up u
    USING other o
    WHERE u.account = o.account AND u.kind = 'rejected' AND u.appointment_id = o.appointment_id
)
INSERT INTO caspen_sync.run_up AS u (account, kind, appointment_id, reason, change_ids, charged)
SELECT account, kind, appointment_id, reason, change_ids, charged FROM told
ON CONFLICT (account, kind, appointment_id) DO UPDATE SET
    reason = excluded.reason,
    charged = CASE WHEN u.kind = 'rejected' AND u.reason <> excluded.reason THEN excluded.charged
                   ELSE u.charged + excluded.charged END,
    change_ids = CASE WHEN u.kind = 'rejected' AND u.reason <> excluded.reason THEN excluded.change_ids
                      ELSE ARRAY (SELECT unnest(u.change_ids) UNION SELECT unnest(excluded.change_ids)) END
