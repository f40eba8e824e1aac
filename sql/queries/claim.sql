-- Takes permits and appointments together: each claim comes with the slot that its request will use, so nothing is
-- leased that would wait for budget.
-- In:  $1 accounts text[], $2 most claims for each of them int[], $3 worker text, $4 request timeout float8 (s),
--      $5 lease float8 (s), $6 most changes of one appointment int, $7 largest body int (bytes); of a
--      larger one only the id comes back, $8 most changes of all appointments together int.
-- Out: one row for each claim: the appointment, its lease, its slot and its pending changes in id order, each with its age
--      float8 (s).
--
-- That due_at is below infinity says nothing new, but lets the planner use the index that leaves idle appointments out.
-- Each LATERAL with a LIMIT is a fence: it keeps the planner from joining the other way round, through every due row.
WITH asked AS MATERIALIZED (
    SELECT a.account, wanted.capacity, NULL::text AS probing, NULL::text AS pause_reason, a.welcomed_at,
           CASE WHEN EXISTS (SELECT FROM caspen_sync.queue b
                             WHERE b.account = a.account AND b.lane = 'backfill' AND b.due_at <= now() AND b.due_at < 'infinity')
                THEN floor(least(a.rate_limit, a.told_limit) * a.live_reserve)::int ELSE 0 END AS reserve,
           make_interval(secs => 2 * $4 + a.rate_window_s + a.rate_guard_s) AS worst_case
    FROM unnest($1::text[], $2::int[]) AS wanted (account, capacity)
    JOIN caspen_sync.account a USING (account)
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.queue q
        WHERE q.account = a.account AND q.lane IN ('live', 'backfill') AND q.due_at <= now() AND q.due_at < 'infinity'
        LIMIT 1
    ) AS something_due
    WHERE wanted.capacity > 0
      AND (a.paused_until IS NULL OR (a.pause_kind = 'throttled' AND a.paused_until <= now()))
), probe AS (
    -- An account that the API refused, or that it is down for, sends one request when its pause is over. Saying so in the statement that takes the probe keeps
    -- every other process waiting; a second one that got this far waits for this row, and finds a probe on its way.
    UPDATE caspen_sync.account a
    SET probe_until = now() + make_interval(secs => $5)
    FROM unnest($1::text[], $2::int[]) AS wanted (account, capacity)
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.queue q
        WHERE q.account = wanted.account AND q.lane IN ('live', 'backfill')
          AND q.due_at <= now() AND q.due_at < 'infinity'
        LIMIT 1
    ) AS something_due
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.rate_slot r WHERE r.account = wanted.account AND r.free_at <= now() LIMIT 1
    ) AS something_free
    WHERE a.account = wanted.account AND wanted.capacity > 0
      AND a.pause_kind IN ('down', 'rejected', 'refused') AND a.paused_until <= now()
      AND (a.probe_until IS NULL OR a.probe_until <= now())
    RETURNING a.account, 1 AS capacity, a.pause_kind AS probing, a.pause_reason, a.welcomed_at, 0 AS reserve,
              make_interval(secs => 2 * $4 + a.rate_window_s + a.rate_guard_s) AS worst_case
), speaking AS MATERIALIZED (
    SELECT account, capacity, probing, pause_reason, welcomed_at, reserve, worst_case FROM asked
    UNION ALL
    SELECT account, capacity, probing, pause_reason, welcomed_at, reserve, worst_case FROM probe
), free AS MATERIALIZED (
    -- The reserve is locked along, so that what another process is just taking does not count as free.
    SELECT locked.account, locked.slot, row_number() OVER (PARTITION BY locked.account ORDER BY locked.slot) AS nth
    FROM (
        SELECT s.account, r.slot
        FROM speaking s
        CROSS JOIN LATERAL (
            SELECT r.slot
            FROM caspen_sync.rate_slot r
            WHERE r.account = s.account AND r.free_at <= now()
            LIMIT s.capacity + s.reserve
            FOR UPDATE SKIP LOCKED
        ) AS r
    ) AS locked
), budget AS MATERIALIZED (
    SELECT s.account, s.capacity, s.probing, s.reserve, count(*) AS free
    FROM speaking s
    JOIN free f USING (account)
    GROUP BY s.account, s.capacity, s.probing, s.reserve
), probed_last AS MATERIALIZED (
    -- Where the API turns away, what came last: what it turned away is put back by a day, see settle.sql.
    SELECT b.account, q.appointment_id, q.token, q.again, q.part_size, q.due_at
    FROM budget b
    CROSS JOIN LATERAL (
        SELECT found.appointment_id, found.token, found.again, found.part_size, found.due_at
        FROM (VALUES (1, 'live'), (2, 'backfill')) AS lanes (rank, lane)
        CROSS JOIN LATERAL (
            SELECT q.appointment_id, q.token, q.again, q.part_size, q.due_at
            FROM caspen_sync.queue q
            WHERE q.account = b.account AND q.lane = lanes.lane AND q.due_at <= now() AND q.due_at < 'infinity'
            ORDER BY q.due_at DESC
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS found
        ORDER BY lanes.rank
        LIMIT 1
    ) AS q
    WHERE b.probing IN ('rejected', 'refused')
), probed_first AS MATERIALIZED (
    -- Where it is down, what came first, of either lane: what failed backs off, and comes last. Either way no appointment
    -- is every probe.
    SELECT b.account, q.appointment_id, q.token, q.again, q.part_size, q.due_at
    FROM budget b
    CROSS JOIN LATERAL (
        SELECT found.appointment_id, found.token, found.again, found.part_size, found.due_at
        FROM (VALUES ('live'), ('backfill')) AS lanes (lane)
        CROSS JOIN LATERAL (
            SELECT q.appointment_id, q.token, q.again, q.part_size, q.due_at
            FROM caspen_sync.queue q
            WHERE q.account = b.account AND q.lane = lanes.lane AND q.due_at <= now() AND q.due_at < 'infinity'
            ORDER BY q.due_at
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS found
        ORDER BY found.due_at
        LIMIT 1
    ) AS q
    WHERE b.probing = 'down'
), live AS MATERIALIZED (
    SELECT b.account, q.appointment_id, q.token, q.again, q.part_size, q.due_at
    FROM budget b
    CROSS JOIN LATERAL (
        SELECT q.appointment_id, q.token, q.again, q.part_size, q.due_at
        FROM caspen_sync.queue q
        WHERE q.account = b.account AND q.lane = 'live' AND q.due_at <= now() AND q.due_at < 'infinity'
        ORDER BY q.due_at
        LIMIT least(b.capacity, b.free)
        FOR UPDATE SKIP LOCKED
    ) AS q
    WHERE b.probing IS NULL
), backfill AS MATERIALIZED (
    SELECT b.account, q.appointment_id, q.token, q.again, q.part_size, q.due_at
    FROM budget b
    LEFT JOIN (SELECT account, count(*) AS claims FROM live GROUP BY account) AS l USING (account)
    CROSS JOIN LATERAL (
        SELECT q.appointment_id, q.token, q.again, q.part_size, q.due_at
        FROM caspen_sync.queue q
        WHERE q.account = b.account AND q.lane = 'backfill' AND q.due_at <= now() AND q.due_at < 'infinity'
        ORDER BY q.due_at
        LIMIT greatest(0, least(b.capacity, b.free - b.reserve) - coalesce(l.claims, 0))
        FOR UPDATE SKIP LOCKED
    ) AS q
    WHERE b.probing IS NULL
), chosen AS (
    SELECT account, appointment_id, token, again, part_size,
           row_number() OVER (PARTITION BY account ORDER BY rank, due_at) AS nth
    FROM (
        SELECT account, appointment_id, token, again, part_size, due_at, 1 AS rank FROM live
        UNION ALL
        SELECT account, appointment_id, token, again, part_size, due_at, 2 AS rank FROM backfill
        UNION ALL
        SELECT account, appointment_id, token, again, part_size, due_at, 1 AS rank FROM probed_last
        UNION ALL
        SELECT account, appointment_id, token, again, part_size, due_at, 1 AS rank FROM probed_first
    ) AS candidates
), matched AS MATERIALIZED (
    -- A lock is taken on a row's newest version, while the outbox is read as of this statement's start. Where another
    -- worker claimed and settled the appointment in between, or a person brought back a change, the two disagree, the
    -- token or `again` tells, and the row is left.
    SELECT c.account, c.appointment_id, f.slot, seen.newest_id, p.ids, p.changes, p.attempts, p.ages_s, p.traceparents, newer.set_by
    FROM chosen c
    JOIN free f USING (account, nth)
    JOIN caspen_sync.queue seen
        ON seen.account = c.account AND seen.appointment_id = c.appointment_id
       AND seen.token IS NOT DISTINCT FROM c.token AND seen.again = c.again
    CROSS JOIN LATERAL (
        -- In the order of the subquery: there is nothing beside it (Postgres manual, Aggregate Functions, on a sorted
        -- subquery). Five aggregates that sort for themselves take as long as all the rest.
        SELECT array_agg(o.id) AS ids,
               array_agg(CASE WHEN octet_length(o.changes) <= $7 THEN o.changes END) AS changes,
               array_agg(o.attempts) AS attempts,
               array_agg(o.age_s) AS ages_s,
               array_agg(o.traceparent) AS traceparents
        FROM (
            SELECT o.id, o.changes::text AS changes, o.attempts,
                   CASE WHEN isfinite(o.created_at) THEN extract(epoch FROM now() - o.created_at)::float8 ELSE 0 END AS age_s,
                   left(o.traceparent, 64) AS traceparent -- 55 characters, if it is one
            FROM caspen_sync.outbox o
            WHERE o.account = c.account AND o.appointment_id = c.appointment_id AND o.state = 'pending'
            ORDER BY o.id
            LIMIT least(c.part_size, $6, greatest(1, $8 / (SELECT count(*) FROM chosen)))
        ) AS o
    ) AS p
    LEFT JOIN LATERAL (
        -- Only a change that was brought back is older than what was accepted last.
        SELECT a.set_by FROM caspen_sync.appointment a
        WHERE a.account = c.account AND a.appointment_id = c.appointment_id AND a.last_change_id > p.ids[1]
        LIMIT 1
    ) AS newer ON true
), leased AS (
    UPDATE caspen_sync.queue q
    SET token = gen_random_uuid(),
        due_at = now() + make_interval(secs => $5),
        leased_until = now() + make_interval(secs => $5),
        worker = $3,
        again = 0,
        newest_id = greatest(q.newest_id, m.ids[cardinality(m.ids)])
    FROM matched m
    WHERE q.account = m.account AND q.appointment_id = m.appointment_id
    RETURNING q.account, q.appointment_id, q.token, q.lane, q.failures, q.part_size, q.turned_away_at
), taken AS (
    -- The worst case, for whatever happens next: written at the last moment, one timeout from now, and then held up by
    -- the network or a gateway for another one before the API counts it.
    UPDATE caspen_sync.rate_slot r
    SET free_at = now() + s.worst_case
    FROM matched m
    JOIN speaking s USING (account)
    WHERE r.account = m.account AND r.slot = m.slot
    RETURNING r.account, r.slot, r.free_at
)
SELECT l.account, l.appointment_id, l.token, l.lane, l.failures, l.part_size, s.probing, s.pause_reason,
       coalesce(l.turned_away_at < s.welcomed_at, false) AS suspect,
       m.newest_id, m.ids, m.changes, m.attempts, m.ages_s, m.traceparents, m.set_by, t.slot, t.free_at AS slot_free_at
FROM matched m
JOIN leased l USING (account, appointment_id)
JOIN taken t USING (account, slot)
JOIN speaking s USING (account)
