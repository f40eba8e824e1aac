-- An account was paused for what went wrong in a row: the changes get back what that charged them, and what was parked by
-- it is pending again, at its old place, unless its backfill was cancelled.
-- In:  $1 account text, $2 kind text.
-- Out: one row: how many changes, and how many of them were parked.
-- Locks rows of the queue and then of run_up, each in key order; no account is locked.
-- Why accounts are compared with an array of one: see claim.sql.
WITH peeked AS MATERIALIZED (
    SELECT u.account, u.appointment_id FROM caspen_sync.run_up u WHERE u.account = $1 AND u.kind = $2
), locked AS MATERIALIZED (
    SELECT q.account, q.appointment_id
    FROM peeked p
    JOIN caspen_sync.queue q ON q.account = ANY (ARRAY[p.account]) AND q.appointment_id = p.appointment_id
    ORDER BY p.account, p.appointment_id
    FOR UPDATE OF q
), run_up AS MATERIALIZED (
    SELECT u.account, u.appointment_id, u.change_ids, u.charged
    FROM locked l
    JOIN caspen_sync.run_up u USING (account, appointment_id)
    WHERE u.kind = $2
    ORDER BY u.account, u.kind, u.appointment_id
    FOR UPDATE OF u
), changed AS (
    UPDATE caspen_sync.outbox o
    SET state = 'pending', finished_at = NULL, attempts = greatest(0, o.attempts - r.charged)
    FROM (SELECT account, unnest(change_ids) AS id, charged FROM run_up) AS r
    WHERE o.account = ANY (ARRAY[r.account]) AND o.id = r.id AND o.state NOT IN ('synced', 'discarded')
      AND (o.state = 'pending' OR o.lane = 'live' OR (
          SELECT b.cancelled_at FROM caspen_sync.backfill b WHERE b.account = o.account AND b.name = o.source) IS NULL)
    RETURNING o.id
), queued AS (
    UPDATE caspen_sync.queue q
    SET again = q.again + 1,
        part_size = NULL, -- what it counted off is not what is pending now, see settle.sql
        turned_away_at = CASE WHEN $2 = 'rejected' THEN clock_timestamp() ELSE q.turned_away_at END,
        due_at = CASE WHEN q.due_at = 'infinity' THEN clock_timestamp() - interval '1 day' ELSE q.due_at END
    FROM run_up r
    WHERE q.account = ANY (ARRAY[r.account]) AND q.appointment_id = r.appointment_id
), over AS (
    DELETE FROM caspen_sync.run_up u
    USING run_up r
    WHERE u.account = r.account AND u.appointment_id = r.appointment_id AND u.kind = $2
)
SELECT count(*)::int AS changes, count(*) FILTER (WHERE before.state = 'parked')::int AS parked
FROM changed c
CROSS JOIN LATERAL (
    -- As it was when this statement began.
    SELECT o.state FROM caspen_sync.outbox o WHERE o.account = $1 AND o.id = c.id LIMIT 1
) AS before
