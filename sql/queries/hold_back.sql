-- Holds slots back that somebody else uses: of those that nobody of ours has used since before a request began, the API
-- would take as many; where it says fewer, the difference is another's. They are given back after one and a half
-- windows, by themselves. That is longer than it takes until a slot is used again, and how many are missing shows only
-- when all are used: after one window they would be given back each time just before that. Those that are held back count as
-- unused too, or with a backlog, when no slot is ever free for long, the other would be forgotten each time they are.
-- So does a slot whose request was answered 429, see settle.sql: that nothing remains does not say how many are missing.
-- In, as columns of equal length, each account once: $1 account text[], $2 what the API said that remains int[],
--     $3 the request began so long ago float8[] (s).
-- Out: a row for each account where slots are held back that were not before: how many.
--
-- Counted first and locked afterwards, so that as long as nobody else uses the key nothing is written.
-- Why accounts are compared with an array of one: see claim.sql.
WITH told AS MATERIALIZED (
    SELECT t.account, t.remaining, now() - make_interval(secs => t.age_s) AS since,
           make_interval(secs => 1.5 * (a.rate_window_s + a.rate_guard_s)) AS rest
    FROM unnest($1::text[], $2::int[], $3::float8[]) AS t (account, remaining, age_s)
    JOIN caspen_sync.account a USING (account)
), counted AS MATERIALIZED (
    SELECT t.account, t.remaining, t.since, t.rest, unused.slots
    FROM told t
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS slots FROM caspen_sync.rate_slot r
        WHERE r.account = t.account
          AND (r.free_at <= t.since OR (r.free_at = r.held_until AND r.held_until <= t.since + t.rest))
    ) AS unused
    WHERE unused.slots > t.remaining
), taken AS MATERIALIZED (
    SELECT c.account, r.slot, r.held, c.rest
    FROM counted c
    CROSS JOIN LATERAL (
        SELECT r.slot, coalesce(r.free_at = r.held_until AND r.free_at > now(), false) AS held
        FROM caspen_sync.rate_slot r
        WHERE r.account = c.account
          AND (r.free_at <= c.since OR (r.free_at = r.held_until AND r.held_until <= c.since + c.rest))
        ORDER BY held DESC, r.free_at DESC
        LIMIT c.slots - c.remaining
        FOR UPDATE SKIP LOCKED
    ) AS r
), held AS (
    UPDATE caspen_sync.rate_slot r
    SET free_at = now() + t.rest, held_until = now() + t.rest
    FROM taken t
    WHERE r.account = ANY (ARRAY[t.account]) AND r.slot = t.slot
    RETURNING r.account, t.held
)
SELECT account, count(*)::int AS slots FROM held WHERE NOT held GROUP BY account
