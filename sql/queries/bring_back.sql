-- A person wants parked changes sent again: they are pending at their old place. Runs after lock_appointments, in its
-- transaction.
-- In:  $1 account text, $2 ids bigint[], $3 who text, $4 why text, $5 what the changes are to say instead jsonb (null: the
--      same as before).
-- Out: a row for each change that was still parked: id, left out fields, and whether it is discarded, since newer changes
--      have set all of them.
--
-- The count of attempts begins anew. An appointment that is leased, resting or backing off keeps its time.
-- Why accounts are compared with an array of one: see claim.sql.
WITH parked AS MATERIALIZED (
    SELECT o.account, o.appointment_id, o.id, o.lane, o.source, o.changes AS former, coalesce($5::jsonb, o.changes) AS changes
    FROM caspen_sync.outbox o
    WHERE o.account = $1 AND o.id = ANY ($2::bigint[]) AND o.state = 'parked'
    ORDER BY o.id
    FOR UPDATE OF o
), judged AS MATERIALIZED (
    SELECT p.account, p.appointment_id, p.id, p.lane, p.source, p.former, p.changes, named.left_out,
           cardinality(named.left_out) = named.fields AS nothing_left
    FROM parked p
    LEFT JOIN LATERAL (
        SELECT a.set_by FROM caspen_sync.appointment a
        WHERE a.account = p.account AND a.appointment_id = p.appointment_id
        LIMIT 1
    ) AS s ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS fields,
               coalesce(array_agg(key.field ORDER BY key.field) FILTER (WHERE (s.set_by ->> key.field)::bigint > p.id), '{}')
                   AS left_out
        FROM jsonb_object_keys(p.changes) AS key (field)
    ) AS named
), changed AS (
    UPDATE caspen_sync.outbox o
    SET changes = j.changes,
        state = CASE WHEN j.nothing_left THEN 'discarded' ELSE 'pending' END,
        finished_at = CASE WHEN j.nothing_left THEN clock_timestamp() END,
        attempts = 0,
        last_error = CASE WHEN j.nothing_left THEN 'superseded: newer changes have set every field of it since'
                          ELSE o.last_error END
    FROM judged j
    WHERE o.account = ANY (ARRAY[j.account]) AND o.id = j.id
), queued AS (
    UPDATE caspen_sync.queue q
    SET again = q.again + 1,
        part_size = NULL, -- what it counted off is not what is pending now, see settle.sql
        lane = CASE WHEN q.due_at = 'infinity' THEN j.lane ELSE greatest(q.lane, j.lane) END,
        due_at = CASE WHEN q.due_at = 'infinity' THEN clock_timestamp() ELSE q.due_at END
    FROM (SELECT account, appointment_id, max(lane) AS lane FROM judged WHERE NOT nothing_left
          GROUP BY account, appointment_id) AS j
    WHERE q.account = ANY (ARRAY[j.account]) AND q.appointment_id = j.appointment_id
), no_run_up AS (
    -- What a person decided is not brought back once more for the run-up that it was parked in.
    DELETE FROM caspen_sync.run_up u
    USING judged j
    WHERE u.account = j.account AND u.kind IN ('down', 'rejected') AND u.appointment_id = j.appointment_id
), counted AS (
    UPDATE caspen_sync.backfill b
    SET discarded = b.discarded + n.changes
    FROM (SELECT source, count(*) AS changes FROM judged WHERE lane = 'backfill' AND nothing_left GROUP BY source) AS n
    WHERE b.account = $1 AND b.name = n.source
), written_down AS (
    INSERT INTO caspen_sync.intervention (account, change_id, action, who, reason, left_out, former_changes)
    SELECT account, id, CASE WHEN $5::jsonb IS NULL THEN 'retry' ELSE 'edit' END, $3, $4, left_out,
           CASE WHEN $5::jsonb IS NOT NULL THEN former END
    FROM judged
)
SELECT id, left_out, nothing_left AS discarded FROM judged ORDER BY id
