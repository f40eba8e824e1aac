-- How a backfill goes on between two counts of what is pending: cheaply, by the requests made since.
-- In:  $1 accounts text[], $2 over how many seconds the rate of each is measured float8[], $3 name text, $4 when its
--      changes were counted timestamptz, $5 how long a lease lasts float8 (s): an attempt is written down after its start.
-- Out: a row for each account: changes of the backfill that have left pending since they were counted, and how many of
--      those were parked; in the seconds that were asked for, changes of it that left pending, and requests of its lane;
--      and the budget, in slots: how many, in use, kept for live changes, held back since somebody else uses the key.
-- The LATERAL with a LIMIT makes the planner look changes up one by one: planned on empty tables, a join would read all
-- changes for each attempt.
-- A change that was parked without a request, or given up by a person, is known by the next count only.
SELECT asked.account, recent.settled, recent.parked, recent.changes, recent.requests,
       budget.slots AS budget, greatest(0, budget.slots - slots.free - slots.held_back) AS used,
       floor(budget.slots * a.live_reserve)::int AS reserve, slots.held_back
FROM unnest($1::text[], $2::float8[]) AS asked (account, for_s)
JOIN caspen_sync.account a USING (account)
CROSS JOIN LATERAL (SELECT least(a.rate_limit, a.told_limit) AS slots) AS budget
CROSS JOIN LATERAL (
    SELECT count(DISTINCT o.id) FILTER (WHERE o.source = $3 AND o.finished_at > $4) AS settled,
           count(DISTINCT o.id) FILTER (WHERE o.source = $3 AND o.finished_at > $4 AND o.state = 'parked') AS parked,
           count(DISTINCT o.id) FILTER (WHERE o.source = $3 AND o.finished_at > now() - make_interval(secs => asked.for_s))
               AS changes,
           count(DISTINCT t.id) FILTER (WHERE t.started_at > now() - make_interval(secs => asked.for_s)) AS requests
    FROM caspen_sync.attempt t
    CROSS JOIN LATERAL unnest(t.change_ids) AS sent (id)
    CROSS JOIN LATERAL (
        SELECT o.id, o.source, o.state, o.finished_at, o.lane FROM caspen_sync.outbox o
        WHERE o.account = asked.account AND o.id = sent.id
        LIMIT 1
    ) AS o
    WHERE t.account = asked.account AND o.lane = 'backfill'
      AND t.started_at > least($4, now() - make_interval(secs => asked.for_s)) - make_interval(secs => $5)
) AS recent
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE r.free_at <= now())::int AS free,
           count(*) FILTER (WHERE r.held_until > now() AND r.free_at = r.held_until)::int AS held_back
    FROM caspen_sync.rate_slot r WHERE r.account = asked.account
) AS slots
