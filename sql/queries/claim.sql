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
-- An account = ANY (ARRAY[x.account]) says what account = x.account would, but leaves only one way to join: each row is
-- looked up by its key. By equal accounts the planner could merge, and so also walk a whole table through its index. That
-- costs nothing where it expects a single row: while the table is new, and after a vacuum that found it empty or full of
-- rows that were not committed yet, however many come then; and the plan lasts. Accounts, backfills and run-ups are
-- compared as usual: there are never many.
WITH asked AS MATERIALIZED (
    SELECT a.account, due.appointments AS capacity, NULL::text AS probing, NULL::text AS pause_reason, a.welcomed_at,
           CASE WHEN backfill.is_due THEN floor(least(a.rate_limit, a.told_limit) * a.live_reserve)::int ELSE 0 END AS reserve,
           backfill.is_due AS backfill_due,
           make_interval(secs => 2 * $4 + a.rate_window_s + a.rate_guard_s) AS worst_case
    FROM unnest($1::text[], $2::int[]) AS wanted (account, capacity)
    JOIN caspen_sync.account a USING (account)
    CROSS JOIN LATERAL (
        -- No more slots are locked than there is something due for.
        SELECT count(*)::int AS appointments
        FROM (
            SELECT FROM caspen_sync.queue q
            WHERE q.account = a.account AND q.lane IN ('live', 'backfill') AND q.due_at <= now() AND q.due_at < 'infinity'
            LIMIT wanted.capacity
        ) AS q
    ) AS due
    CROSS JOIN LATERAL (
        SELECT EXISTS (SELECT FROM caspen_sync.queue q
                       WHERE q.account = ANY (ARRAY[a.account]) AND q.lane = 'backfill' AND q.due_at <= now() AND q.due_at < 'infinity')
            AS is_due
    ) AS backfill
    WHERE due.appointments > 0
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
              false AS backfill_due, make_interval(secs => 2 * $4 + a.rate_window_s + a.rate_guard_s) AS worst_case
), speaking AS MATERIALIZED (
    -- Sorted, so that all rows of accounts are locked before any other: who has one may be waiting for the queue's.
    SELECT account, capacity, probing, pause_reason, welcomed_at, reserve, backfill_due, worst_case FROM asked
    UNION ALL
    SELECT account, capacity, probing, pause_reason, welcomed_at, reserve, backfill_due, worst_case FROM probe
    ORDER BY account
), budget AS MATERIALIZED (
    -- The reserve is locked along, so that what another process is just taking does not count as free.
    SELECT s.account, s.capacity, s.probing, s.pause_reason, s.welcomed_at, s.reserve, s.backfill_due, s.worst_case,
           f.slots, cardinality(f.slots) AS free
    FROM speaking s
    CROSS JOIN LATERAL (
        SELECT array_agg(locked.slot) AS slots
        FROM (
            SELECT r.slot
            FROM caspen_sync.rate_slot r
            WHERE r.account = s.account AND r.free_at <= now()
            LIMIT s.capacity + s.reserve
            FOR UPDATE SKIP LOCKED
        ) AS locked
    ) AS f
    WHERE f.slots IS NOT NULL
), probed_last AS MATERIALIZED (
    -- Where the API turns away, what came last: what it turned away is put back by a day, see settle.sql.
    SELECT b.account, b.slots, b.probing, b.pause_reason, b.welcomed_at, b.worst_case,
           q.appointment_id, q.token, q.again, q.part_size, q.due_at
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
    SELECT b.account, b.slots, b.probing, b.pause_reason, b.welcomed_at, b.worst_case,
           q.appointment_id, q.token, q.again, q.part_size, q.due_at
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
    SELECT b.account, b.slots, b.probing, b.pause_reason, b.welcomed_at, b.worst_case,
           q.appointment_id, q.token, q.again, q.part_size, q.due_at
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
    SELECT b.account, b.slots, b.probing, b.pause_reason, b.welcomed_at, b.worst_case,
           q.appointment_id, q.token, q.again, q.part_size, q.due_at
    FROM budget b
    CROSS JOIN LATERAL (
        SELECT q.appointment_id, q.token, q.again, q.part_size, q.due_at
        FROM caspen_sync.queue q
        WHERE q.account = b.account AND q.lane = 'backfill' AND q.due_at <= now() AND q.due_at < 'infinity'
        ORDER BY q.due_at
        LIMIT greatest(0, least(b.capacity, b.free - b.reserve) - (SELECT count(*) FROM live l WHERE l.account = b.account))
        FOR UPDATE SKIP LOCKED
    ) AS q
    WHERE b.backfill_due
), chosen AS MATERIALIZED (
    -- The first of an account takes the first of its slots, and so on. A join over them would be planned for a handful,
    -- and compare each with each.
    SELECT account, slots[row_number() OVER (PARTITION BY account)] AS slot, probing, pause_reason, welcomed_at, worst_case,
           appointment_id, token, again, part_size
    FROM (
        TABLE live UNION ALL TABLE backfill UNION ALL TABLE probed_last UNION ALL TABLE probed_first
    ) AS candidates
), matched AS MATERIALIZED (
    -- A lock is taken on a row's newest version, while the outbox is read as of this statement's start. Where another
    -- worker claimed and settled the appointment in between, or a person brought back a change, the two disagree, the
    -- token or `again` tells, and the row is left.
    SELECT c.account, c.appointment_id, c.slot, now() + c.worst_case AS slot_free_at, c.probing, c.pause_reason,
           c.welcomed_at, seen.newest_id, seen.unsure_ids, p.ids, p.changes, p.attempts, p.ages_s, p.traceparents, newer.set_by
    FROM chosen c
    CROSS JOIN LATERAL (
        SELECT q.newest_id, q.unsure_ids FROM caspen_sync.queue q
        WHERE q.account = c.account AND q.appointment_id = c.appointment_id
          AND q.token IS NOT DISTINCT FROM c.token AND q.again = c.again
        LIMIT 1
    ) AS seen
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
), taken AS (
    -- The worst case, for whatever happens next: written at the last moment, one timeout from now, and then held up by
    -- the network or a gateway for another one before the API counts it.
    UPDATE caspen_sync.rate_slot r
    SET free_at = m.slot_free_at
    FROM matched m
    WHERE r.account = ANY (ARRAY[m.account]) AND r.slot = m.slot
)
UPDATE caspen_sync.queue q
SET token = gen_random_uuid(),
    due_at = now() + make_interval(secs => $5),
    leased_until = now() + make_interval(secs => $5),
    worker = $3,
    again = 0,
    newest_id = greatest(q.newest_id, m.ids[cardinality(m.ids)]),
    unsure_ids = CASE WHEN m.ids IS NULL OR m.ids[cardinality(m.ids)] = ANY (q.unsure_ids) THEN q.unsure_ids
                      -- The newest eight, see parts.py.
                      ELSE (q.unsure_ids || m.ids[cardinality(m.ids)])[greatest(1, cardinality(q.unsure_ids) - 6):] END
FROM matched m
WHERE q.account = ANY (ARRAY[m.account]) AND q.appointment_id = m.appointment_id
RETURNING q.account, q.appointment_id, q.token, q.lane, q.failures, q.part_size, m.probing, m.pause_reason,
          coalesce(q.turned_away_at < m.welcomed_at, false) AS suspect,
          m.newest_id, m.unsure_ids, m.ids, m.changes, m.attempts, m.ages_s, m.traceparents, m.set_by, m.slot,
          m.slot_free_at
