-- Takes committed changes into the queue: deletes their arrival rows and makes their appointments due, in one statement.
-- In:  $1 accounts text[], $2 most arrivals to take of each account's live and of its backfill lane, int.
-- Out: a row for each account of which any were taken: how many.
--
-- An appointment that is leased, resting or backing off keeps its time; the new changes fold into its next request.
-- A change that a claim has read already (its id is not above newest_id) makes nothing due.
-- Rows of the queue are locked in key order, as in settle: two statements that wait for each other would be a deadlock.
--
-- Its commit waits for no disk: should the server crash before it is there, both tables are as they were, and the changes
-- are taken in again. The claim that follows does wait, and what was committed before it is on disk by then.
-- Why accounts are compared with an array of one: see claim.sql.
WITH hurried AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), picked AS (
    SELECT k.account, k.lane, k.change_id
    FROM unnest($1::text[]) AS asked (account)
    CROSS JOIN (VALUES ('live'), ('backfill')) AS lanes (lane)
    CROSS JOIN LATERAL (
        SELECT a.account, a.lane, a.change_id
        FROM caspen_sync.arrival a
        WHERE a.account = asked.account AND a.lane = lanes.lane
        ORDER BY a.change_id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS k
), taken AS (
    DELETE FROM caspen_sync.arrival a
    USING picked p
    WHERE a.account = ANY (ARRAY[p.account]) AND a.lane = p.lane AND a.change_id = p.change_id
    RETURNING a.account, a.appointment_id, a.lane, a.change_id
), news AS (
    SELECT account, appointment_id, max(lane) AS lane, max(change_id) AS newest_id -- 'live' sorts after 'backfill'
    FROM taken
    GROUP BY account, appointment_id
), queued AS (
    INSERT INTO caspen_sync.queue AS q (account, appointment_id, lane, due_at, newest_id)
    SELECT account, appointment_id, lane, clock_timestamp(), newest_id
    FROM news
    ORDER BY account, appointment_id
    ON CONFLICT (account, appointment_id) DO UPDATE SET
        newest_id = greatest(q.newest_id, excluded.newest_id),
        lane = CASE WHEN q.due_at = 'infinity' THEN excluded.lane ELSE greatest(q.lane, excluded.lane) END,
        due_at = CASE WHEN q.due_at = 'infinity' AND excluded.newest_id > q.newest_id
                      THEN excluded.due_at ELSE q.due_at END
)
SELECT account, count(*)::int AS taken FROM taken CROSS JOIN hurried GROUP BY account
