-- The API did better: what failed, or was rejected, before that is no run-up any more. Runs after lock_account, in its
-- transaction.
-- In, as columns of equal length: $1 account text[], $2 kind text[].
-- An account that is paused for it keeps it: reinstate.sql has still to bring back what it cost. That one locks no
-- account, so rows are locked in the same order as there.
WITH over AS MATERIALIZED (
    SELECT u.account, u.kind, u.appointment_id
    FROM unnest($1::text[], $2::text[]) AS w (account, kind)
    JOIN caspen_sync.account a USING (account)
    JOIN caspen_sync.run_up u USING (account, kind)
    WHERE a.pause_kind IS DISTINCT FROM w.kind
    ORDER BY u.account, u.kind, u.appointment_id
    FOR UPDATE OF u
)
DELETE FROM caspen_sync.run_up u
USING over o
WHERE u.account = o.account AND u.kind = o.kind AND u.appointment_id = o.appointment_id
