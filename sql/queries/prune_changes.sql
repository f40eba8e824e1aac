-- Deletes finished changes that are older than the retention, with what was said and done about them: one step of a walk
-- through an account's changes in the order of their ids.
-- In:  $1 account text, $2 the id to go on after bigint, $3 retention float8 (s), $4 rows to look at int.
-- Out: one row: how many were deleted, the id to go on after (null: the walk is over).
--
-- Ids have the order of time, so the walk ends with the first step of which all was written within the retention. What is pending
-- or parked is never deleted. Rows that somebody else holds are left for the next time. What is deleted is told of by the
-- table pruned, for whoever has to know how old a change was that is not there any more.
-- Why accounts are compared with an array of one: see claim.sql.
WITH looked AS MATERIALIZED (
    SELECT o.account, o.id, o.state, o.finished_at, o.created_at
    FROM caspen_sync.outbox o
    WHERE o.account = $1 AND o.id > $2
    ORDER BY o.id
    LIMIT $4
), old AS MATERIALIZED (
    SELECT o.account, o.id, CASE WHEN isfinite(l.created_at) THEN least(l.created_at, l.finished_at) ELSE l.finished_at END AS written_at
    FROM looked l
    CROSS JOIN LATERAL (
        SELECT o.account, o.id FROM caspen_sync.outbox o
        WHERE o.account = l.account AND o.id = l.id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS o
    WHERE l.state IN ('synced', 'discarded') AND l.finished_at < now() - make_interval(secs => $3)
), deleted AS (
    DELETE FROM caspen_sync.outbox o
    USING old
    WHERE o.account = ANY (ARRAY[old.account]) AND o.id = old.id
), told AS (
    INSERT INTO caspen_sync.pruned AS p (account, until)
    SELECT account, max(written_at) FROM old GROUP BY account
    ON CONFLICT (account) DO UPDATE SET until = excluded.until WHERE p.until < excluded.until
), words AS (
    DELETE FROM caspen_sync.rejection r
    USING old
    WHERE r.account = ANY (ARRAY[old.account]) AND r.change_id = old.id
), deeds AS (
    DELETE FROM caspen_sync.intervention i
    USING old
    WHERE i.account = ANY (ARRAY[old.account]) AND i.change_id = old.id
)
SELECT (SELECT count(*)::int FROM old) AS deleted,
       CASE WHEN count(*) = $4 AND min(created_at) < now() - make_interval(secs => $3) THEN max(id) END AS after_id
FROM looked
