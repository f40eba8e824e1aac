-- A person has given parked changes up.
-- In:  $1 account text, $2 ids bigint[], $3 who text, $4 why text.
-- Out: a row for each change that was still parked.
-- Why accounts are compared with an array of one: see claim.sql.
WITH parked AS MATERIALIZED (
    SELECT o.account, o.appointment_id, o.id, o.lane, o.source
    FROM caspen_sync.outbox o
    WHERE o.account = $1 AND o.id = ANY ($2::bigint[]) AND o.state = 'parked'
    ORDER BY o.id
    FOR UPDATE OF o
), changed AS (
    UPDATE caspen_sync.outbox o
    SET state = 'discarded', finished_at = clock_timestamp()
    FROM parked p
    WHERE o.account = ANY (ARRAY[p.account]) AND o.id = p.id
), no_run_up AS (
    -- What a person decided is not brought back for the run-up that it was parked in.
    DELETE FROM caspen_sync.run_up u
    USING parked p
    WHERE u.account = p.account AND u.kind IN ('down', 'rejected') AND u.appointment_id = p.appointment_id
), counted AS (
    UPDATE caspen_sync.backfill b
    SET discarded = b.discarded + n.changes
    FROM (SELECT source, count(*) AS changes FROM parked WHERE lane = 'backfill' GROUP BY source) AS n
    WHERE b.account = $1 AND b.name = n.source
), written_down AS (
    INSERT INTO caspen_sync.intervention (account, change_id, action, who, reason)
    SELECT account, id, 'discard', $3, $4 FROM parked
)
SELECT id FROM parked ORDER BY id
