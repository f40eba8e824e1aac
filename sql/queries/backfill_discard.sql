-- Discards pending changes of a backfill that was cancelled: one step of a walk through its account's pending changes.
-- In:  $1 account text, $2 name text, $3 the appointment and $4 the id to go on behind, text and bigint, $5 rows int.
-- Out: one row: how many were discarded, how many were left because they are on the wire, and the appointment and the id to
--      go on behind (null: the walk is over).
--
-- Claims and the queue's taking in are kept out by the row of the queue, which is made where there is none yet. Its token
-- changes, so that a claim that read the outbox before leaves the row, see claim.sql. Where nothing else is pending the row
-- is idle afterwards, unless it knows by now of something that this statement cannot have seen: a newer change, or an
-- older one that was brought back, even if a claim has dealt with it since: the token would be another one. One that rests or backs off keeps its time: the API may still be working on a request
-- of which nothing was heard, and whatever comes next must not overtake it.
-- Each LATERAL with a LIMIT, and an array of one account, make the planner look rows up one by one, see claim.sql: one that
-- knows empty tables would read all of the account.
WITH walked AS MATERIALIZED (
    SELECT o.account, o.appointment_id, o.id, o.lane = 'backfill' AND o.source IS NOT DISTINCT FROM $2 AS ours
    FROM caspen_sync.outbox o
    WHERE o.account = $1 AND o.state = 'pending' AND (o.appointment_id, o.id) > ($3, $4)
    ORDER BY o.appointment_id, o.id
    LIMIT $5
), wanted AS MATERIALIZED (
    SELECT w.account, w.appointment_id,
           NOT EXISTS (
               SELECT FROM caspen_sync.outbox o
               WHERE o.account = w.account AND o.appointment_id = w.appointment_id AND o.state = 'pending'
                 AND o.id <> ALL (ARRAY(SELECT id FROM walked WHERE ours))
           ) AS alone
    FROM (SELECT DISTINCT account, appointment_id FROM walked WHERE ours) AS w
), news AS MATERIALIZED (
    -- Arrivals before the queue, as in take_in: two statements that wait for each other would be a deadlock. What that is
    -- just taking in it may take in.
    SELECT x.account, x.lane, x.change_id
    FROM walked w
    CROSS JOIN LATERAL (
        SELECT x.account, x.lane, x.change_id FROM caspen_sync.arrival x
        WHERE x.account = w.account AND x.lane = 'backfill' AND x.change_id = w.id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS x
    WHERE w.ours
), free AS (
    INSERT INTO caspen_sync.queue AS q (account, appointment_id, lane, due_at, newest_id, again, token)
    SELECT $1, w.appointment_id, 'backfill', CASE WHEN w.alone THEN 'infinity' ELSE clock_timestamp() END,
           coalesce(seen.newest_id, 0), coalesce(seen.again, 0), seen.token
    FROM wanted w
    CROSS JOIN (SELECT count(*) AS locked FROM news) AS first
    LEFT JOIN LATERAL (
        SELECT q.newest_id, q.again, q.token FROM caspen_sync.queue q
        WHERE q.account = w.account AND q.appointment_id = w.appointment_id
        LIMIT 1
    ) AS seen ON true
    WHERE first.locked >= 0
    ORDER BY w.appointment_id
    ON CONFLICT (account, appointment_id) DO UPDATE SET
        token = gen_random_uuid(),
        leased_until = NULL,
        due_at = CASE WHEN excluded.due_at = 'infinity' AND q.newest_id = excluded.newest_id AND q.again = excluded.again
                       AND q.token IS NOT DISTINCT FROM excluded.token AND q.due_at <= clock_timestamp()
                      THEN excluded.due_at ELSE q.due_at END
        WHERE q.leased_until IS NULL OR q.leased_until <= clock_timestamp()
    RETURNING q.appointment_id
), discarded AS (
    UPDATE caspen_sync.outbox o
    SET state = 'discarded', last_error = 'cancelled with its backfill', finished_at = clock_timestamp()
    FROM walked w
    WHERE w.ours AND w.appointment_id = ANY (ARRAY(SELECT appointment_id FROM free)) AND o.account = ANY (ARRAY[w.account]) AND o.id = w.id AND o.state NOT IN ('synced', 'parked', 'discarded')
    RETURNING o.id
), no_news AS (
    DELETE FROM caspen_sync.arrival x
    USING news n
    WHERE n.change_id = ANY (ARRAY(SELECT id FROM discarded)) AND x.account = ANY (ARRAY[n.account]) AND x.lane = n.lane AND x.change_id = n.change_id
), counted AS (
    UPDATE caspen_sync.backfill b
    SET discarded = b.discarded + n.changes
    FROM (SELECT count(*) AS changes FROM discarded) AS n
    WHERE b.account = $1 AND b.name = $2 AND n.changes > 0
)
SELECT (SELECT count(*)::int FROM discarded) AS discarded,
       (SELECT count(*)::int FROM walked WHERE ours) - (SELECT count(*)::int FROM discarded) AS on_the_wire,
       last.appointment_id AS after_appointment, last.id AS after_id
FROM (SELECT count(*) AS looked FROM walked) AS n
LEFT JOIN LATERAL (
    SELECT w.appointment_id, w.id FROM walked w
    WHERE n.looked = $5
    ORDER BY w.appointment_id DESC, w.id DESC
    LIMIT 1
) AS last ON true
