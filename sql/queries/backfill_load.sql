-- Moves the next lines of a backfill into the outbox.
-- In:  $1 account text, $2 name text, $3 token uuid, $4 lines int.
-- Out: one row: whether the process still holds the backfill, the ids that the changes got, and the nth of their lines in
--      the same order (null: all is loaded).
--
-- Locks on appointments are taken in the order of the keys, by the trigger outbox_id. Ids are drawn in the order of the
-- insert, which is how ids and lines are known to belong together.
WITH mine AS MATERIALIZED (
    SELECT b.loaded_nth, b.accepted_nth
    FROM caspen_sync.backfill b
    WHERE b.account = $1 AND b.name = $2 AND b.token = $3
    FOR NO KEY UPDATE
), next AS MATERIALIZED (
    SELECT l.nth, l.appointment_id, l.changes, l.as_of
    FROM mine m
    CROSS JOIN LATERAL (
        SELECT l.nth, l.appointment_id, l.changes, l.as_of
        FROM caspen_sync.backfill_line l
        WHERE l.account = $1 AND l.name = $2 AND l.nth > m.loaded_nth AND l.nth <= m.accepted_nth
        ORDER BY l.nth
        LIMIT $4
    ) AS l
), loaded AS (
    INSERT INTO caspen_sync.outbox (account, appointment_id, changes, lane, source, as_of)
    SELECT $1, appointment_id, changes, 'backfill', $2, as_of
    FROM next
    ORDER BY appointment_id, nth
    RETURNING id
), marked AS (
    UPDATE caspen_sync.backfill b
    SET loaded_nth = coalesce(n.last, m.accepted_nth),
        loaded = b.loaded + n.lines,
        last_id = coalesce((SELECT max(id) FROM loaded), b.last_id),
        loaded_at = CASE WHEN n.lines < $4 THEN clock_timestamp() END
    FROM mine m
    CROSS JOIN (SELECT max(nth) AS last, count(*) AS lines FROM next) AS n
    WHERE b.account = $1 AND b.name = $2
)
SELECT EXISTS (SELECT FROM mine) AS held,
       (SELECT array_agg(id ORDER BY id) FROM loaded) AS ids,
       (SELECT array_agg(nth ORDER BY appointment_id, nth) FROM next) AS nths
