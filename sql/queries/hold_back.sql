-- Holds slots back that somebody else uses: of those that have been free since before a request began, and are still,
-- the API would take as many; where it says fewer, the difference is another's. They are given back after a window, by
-- themselves, as that is when the API forgets the other's requests at the latest.
-- In, as columns of equal length, each account once: $1 account text[], $2 what the API said that remains int[],
--     $3 the request began so long ago float8[] (s).
-- Out: a row for each account where slots were held back: how many.
--
-- Counted first and locked afterwards, so that as long as nobody else uses the key nothing is written.
WITH counted AS MATERIALIZED (
    SELECT t.account, t.remaining, f.free, t.since
    FROM (SELECT account, remaining, now() - make_interval(secs => age_s) AS since
          FROM unnest($1::text[], $2::int[], $3::float8[]) AS t (account, remaining, age_s)) AS t
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS free FROM caspen_sync.rate_slot r
        WHERE r.account = t.account AND r.free_at <= t.since
    ) AS f
    WHERE f.free > t.remaining
), taken AS MATERIALIZED (
    SELECT r.account, r.slot
    FROM counted c
    CROSS JOIN LATERAL (
        SELECT r.account, r.slot FROM caspen_sync.rate_slot r
        WHERE r.account = c.account AND r.free_at <= c.since
        LIMIT c.free - c.remaining
        FOR UPDATE SKIP LOCKED
    ) AS r
), held AS (
    UPDATE caspen_sync.rate_slot r
    SET free_at = now() + make_interval(secs => a.rate_window_s + a.rate_guard_s)
    FROM taken t
    JOIN caspen_sync.account a USING (account)
    WHERE r.account = t.account AND r.slot = t.slot
    RETURNING r.account
)
SELECT account, count(*)::int AS slots FROM held GROUP BY account
