-- Takes in the change that arrived first in an account's live lane, and claims its appointment: what take_in and claim do one
-- after the other, in one round trip and one commit, for an account that nothing else waits in.
-- In:  $1 account text, $2 worker text, $3 request timeout float8 (s), $4 lease float8 (s), $5 most changes of the
--      appointment int, $6 largest body int, as for claim.
-- Out: a row as claim's, and whether there are more arrivals. None where anything is in the way: a pause, no free slot,
--      an appointment that is not idle, somebody else who is at it. Then nothing was done, and the change is left to take_in.
--
-- It waits for nobody but whoever is just making the same appointment known to the queue, and then it holds a free slot.
-- Only the settling of a claim that has outlived its slot's worst case could wait for that one.
-- Why accounts are compared with an array of one: see claim.sql.
WITH arrived AS MATERIALIZED (
    SELECT a.account, k.appointment_id, k.lane, k.change_id, a.welcomed_at,
           now() + make_interval(secs => 2 * $3 + a.rate_window_s + a.rate_guard_s) AS slot_free_at
    FROM caspen_sync.account a
    CROSS JOIN LATERAL (
        SELECT x.appointment_id, x.lane, x.change_id
        FROM caspen_sync.arrival x
        WHERE x.account = a.account AND x.lane = 'live'
        ORDER BY x.change_id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS k
    WHERE a.account = $1 AND (a.paused_until IS NULL OR (a.pause_kind = 'throttled' AND a.paused_until <= now()))
), idle AS MATERIALIZED (
    -- The lock is on the row's newest version, and the outbox is read as of this statement's start. Where they disagree, the
    -- token tells, see claim.sql, and the row is left.
    SELECT v.account, v.appointment_id, seen.newest_id, seen.unsure_ids, seen.part_size, seen.turned_away_at
    FROM arrived v
    CROSS JOIN LATERAL (
        SELECT q.token
        FROM caspen_sync.queue q
        WHERE q.account = v.account AND q.appointment_id = v.appointment_id AND q.due_at = 'infinity'
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    CROSS JOIN LATERAL (
        SELECT q.newest_id, q.unsure_ids, q.part_size, q.turned_away_at
        FROM caspen_sync.queue q
        WHERE q.account = v.account AND q.appointment_id = v.appointment_id AND q.token IS NOT DISTINCT FROM locked.token
        LIMIT 1
    ) AS seen
), matched AS MATERIALIZED (
    SELECT v.account, v.appointment_id, v.lane, v.change_id, v.slot_free_at, f.slot, i.account IS NOT NULL AS known,
           greatest(i.newest_id, v.change_id) AS newest_id, i.unsure_ids, coalesce(i.turned_away_at < v.welcomed_at, false) AS suspect,
           p.ids, p.changes, p.attempts, p.ages_s, p.traceparents, newer.set_by
    FROM arrived v
    LEFT JOIN idle i ON i.account = v.account AND i.appointment_id = v.appointment_id
    -- What is pending, and what was sent since: as claim.sql reads it, where it says why.
    CROSS JOIN LATERAL (
        SELECT array_agg(o.id) AS ids,
               array_agg(CASE WHEN octet_length(o.changes) <= $6 THEN o.changes END) AS changes,
               array_agg(o.attempts) AS attempts,
               array_agg(o.age_s) AS ages_s,
               array_agg(o.traceparent) AS traceparents
        FROM (
            SELECT o.id, o.changes::text AS changes, o.attempts,
                   CASE WHEN isfinite(o.created_at) THEN extract(epoch FROM now() - o.created_at)::float8 ELSE 0 END AS age_s,
                   left(o.traceparent, 64) AS traceparent
            FROM caspen_sync.outbox o
            WHERE o.account = v.account AND o.appointment_id = v.appointment_id AND o.state = 'pending'
            ORDER BY o.id
            LIMIT least(i.part_size, $5)
        ) AS o
    ) AS p
    LEFT JOIN LATERAL (
        SELECT a.set_by FROM caspen_sync.appointment a
        WHERE a.account = v.account AND a.appointment_id = v.appointment_id AND a.last_change_id > p.ids[1]
        LIMIT 1
    ) AS newer ON true
    CROSS JOIN LATERAL (
        -- None for an appointment that the queue knows and that is not idle: the insert below would wait for whoever is at it.
        SELECT r.slot FROM caspen_sync.rate_slot r
        WHERE r.account = v.account AND r.free_at <= now()
          AND (i.account IS NOT NULL
               OR NOT EXISTS (SELECT FROM caspen_sync.queue q
                              WHERE q.account = v.account AND q.appointment_id = v.appointment_id))
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS f
    WHERE p.ids IS NOT NULL
), renewed AS (
    -- The change whose arrival goes is known from now on, whether or not it is among those that were read: else nobody would
    -- come back for it.
    UPDATE caspen_sync.queue q
    SET token = gen_random_uuid(),
        lane = m.lane,
        due_at = now() + make_interval(secs => $4),
        leased_until = now() + make_interval(secs => $4),
        worker = $2,
        again = 0,
        newest_id = greatest(q.newest_id, m.newest_id, m.ids[cardinality(m.ids)]),
        unsure_ids = CASE WHEN m.ids[cardinality(m.ids)] = ANY (q.unsure_ids) THEN q.unsure_ids
                          ELSE (q.unsure_ids || m.ids[cardinality(m.ids)])[greatest(1, cardinality(q.unsure_ids) - 6):]
                     END
    FROM matched m
    WHERE m.known AND q.account = ANY (ARRAY[m.account]) AND q.appointment_id = m.appointment_id
    RETURNING q.account, q.appointment_id, q.token, q.lane, q.failures, q.part_size
), fresh AS (
    -- Where a row came in between, this does nothing.
    INSERT INTO caspen_sync.queue AS q (account, appointment_id, lane, due_at, leased_until, newest_id, unsure_ids, token, worker)
    SELECT m.account, m.appointment_id, m.lane, now() + make_interval(secs => $4), now() + make_interval(secs => $4),
           greatest(m.newest_id, m.ids[cardinality(m.ids)]), m.ids[cardinality(m.ids):], gen_random_uuid(), $2
    FROM matched m
    WHERE NOT m.known
    ON CONFLICT (account, appointment_id) DO NOTHING
    RETURNING q.account, q.appointment_id, q.token, q.lane, q.failures, q.part_size
), claimed AS MATERIALIZED (
    TABLE renewed UNION ALL TABLE fresh
), taken_in AS (
    DELETE FROM caspen_sync.arrival x
    USING matched m, claimed c
    WHERE x.account = ANY (ARRAY[m.account]) AND x.lane = m.lane AND x.change_id = m.change_id
), taken AS (
    UPDATE caspen_sync.rate_slot r
    SET free_at = m.slot_free_at
    FROM matched m, claimed c
    WHERE r.account = ANY (ARRAY[m.account]) AND r.slot = m.slot
)
SELECT c.account, c.appointment_id, c.token, c.lane, c.failures, c.part_size, NULL::text AS probing, NULL::text AS pause_reason,
       m.suspect, m.newest_id, m.unsure_ids, m.ids, m.changes, m.attempts, m.ages_s, m.traceparents, m.set_by, m.slot, m.slot_free_at,
       EXISTS (SELECT FROM caspen_sync.arrival x
               WHERE x.account = m.account AND x.lane IN ('live', 'backfill')
                 AND (x.lane, x.change_id) <> (m.lane, m.change_id)) AS more
FROM claimed c
CROSS JOIN matched m
