-- The API was heard of again: changes that were given up while it was not are pending again, with all their attempts. An
-- outage at night, with too few changes about to be known as one, needs nobody.
-- In:  $1 account text.
-- Out: one row: how many changes.
--
-- One that had failed before as well, while others did not, stays parked: it is what the API stumbles over. So does one
-- that was brought back like this before, which stands in its history, and one of a backfill that was cancelled.
-- Locks as reinstate.sql does.
-- Why accounts are compared with an array of one: see claim.sql.
WITH peeked AS MATERIALIZED (
    SELECT u.account, u.appointment_id
    FROM caspen_sync.run_up u
    JOIN caspen_sync.account a USING (account)
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.outbox o
        WHERE o.account = u.account AND o.id = ANY (u.change_ids) AND o.state = 'parked' AND o.attempts <= u.charged
          AND NOT EXISTS (SELECT FROM caspen_sync.intervention i
                          WHERE i.account = ANY (ARRAY[o.account]) AND i.change_id = o.id AND i.who = 'caspen-sync')
        LIMIT 1
    ) AS given_up
    WHERE u.account = $1 AND u.kind = 'down' AND a.pause_kind IS DISTINCT FROM 'down'
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
    WHERE u.kind = 'down'
    ORDER BY u.account, u.kind, u.appointment_id
    FOR UPDATE OF u
), changed AS (
    UPDATE caspen_sync.outbox o
    SET state = 'pending', finished_at = NULL, attempts = 0
    FROM (SELECT account, unnest(change_ids) AS id, charged FROM run_up) AS r
    -- Parked, said so that the index of parked changes does not offer itself; see settle.sql.
    WHERE o.account = ANY (ARRAY[r.account]) AND o.id = r.id AND o.state NOT IN ('pending', 'synced', 'discarded')
      AND o.attempts <= r.charged
      AND NOT EXISTS (SELECT FROM caspen_sync.intervention i
                      WHERE i.account = r.account AND i.change_id = r.id AND i.who = 'caspen-sync')
      AND (o.lane = 'live' OR (
          SELECT b.cancelled_at FROM caspen_sync.backfill b WHERE b.account = o.account AND b.name = o.source) IS NULL)
    RETURNING o.account, o.id
), written_down AS (
    INSERT INTO caspen_sync.intervention (account, change_id, action, who, reason)
    SELECT account, id, 'retry', 'caspen-sync', 'given up in an outage; the API was heard of again' FROM changed
), queued AS (
    UPDATE caspen_sync.queue q
    SET again = q.again + 1,
        part_size = NULL, -- what it counted off is not what is pending now, see settle.sql
        due_at = CASE WHEN q.due_at = 'infinity' THEN clock_timestamp() ELSE q.due_at END
    FROM run_up r
    WHERE q.account = ANY (ARRAY[r.account]) AND q.appointment_id = r.appointment_id
), over AS (
    DELETE FROM caspen_sync.run_up u
    USING run_up r
    WHERE u.account = r.account AND u.appointment_id = r.appointment_id AND u.kind = 'down'
)
SELECT count(*)::int AS changes FROM changed
