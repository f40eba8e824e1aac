-- The API did better: what failed, or was rejected, before that is no run-up any more. Runs after lock_account, in its
-- transaction.
-- In, as columns of equal length: $1 account text[], $2 kind text[].
-- An account that is paused for it keeps it: reinstate.sql has still to bring back what it cost. So does a change that was
-- given up before anything better was heard, see given_up.sql. Those lock no account, so rows are locked in the same order
-- as there.
-- Why accounts are compared with an array of one: see claim.sql.
WITH over AS MATERIALIZED (
    SELECT u.account, u.kind, u.appointment_id
    FROM unnest($1::text[], $2::text[]) AS w (account, kind)
    JOIN caspen_sync.account a USING (account)
    JOIN caspen_sync.run_up u USING (account, kind)
    LEFT JOIN LATERAL (
        SELECT true AS something FROM caspen_sync.outbox o
        WHERE u.kind = 'down' AND o.account = u.account AND o.id = ANY (u.change_ids)
          AND o.state = 'parked' AND o.attempts <= u.charged
          AND NOT EXISTS (SELECT FROM caspen_sync.intervention i
                          WHERE i.account = ANY (ARRAY[o.account]) AND i.change_id = o.id AND i.who = 'caspen-sync')
        LIMIT 1
    ) AS given_up ON true
    WHERE a.pause_kind IS DISTINCT FROM w.kind AND given_up.something IS NULL
    ORDER BY u.account, u.kind, u.appointment_id
    FOR UPDATE OF u
)
DELETE FROM caspen_sync.run_up u
USING over o
WHERE u.account = o.account AND u.kind = o.kind AND u.appointment_id = o.appointment_id
