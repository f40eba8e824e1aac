-- How many requests an account makes for live changes.
-- In:  $1 account text, $2 how far to look back float8 (s), $3 in how many slices to part that time int, $4 how many
--      requests to look at float8, $5 how many there are at the most float8 (in a second). Are those more over the time,
--      each slice is looked at in part.
-- Out: one row: how far back the attempts reach within that (s; 0: there are none), and how many of the requests carried a
--      live change, reckoned from those that were looked at.
--
-- Each slice is looked at from a moment of chance on, or a cron job that comes in step with them would be seen each time.
-- Of the changes in a request the oldest and the newest are looked up.
-- Why accounts are compared with an array of one: see claim.sql.
WITH reach AS MATERIALIZED (
    SELECT since, extract(epoch FROM now() - since)::float8 AS for_s,
           least(1, $4::float8 / greatest(1, $5::float8 * extract(epoch FROM now() - since)))::float8 AS share
    FROM (
        SELECT greatest(first.started_at, now() - make_interval(secs => $2)) AS since
        FROM (SELECT t.started_at FROM caspen_sync.attempt t WHERE t.account = $1 ORDER BY t.started_at LIMIT 1) AS first
    ) AS looked_back
), slices AS MATERIALIZED (
    SELECT r.since + make_interval(secs => r.for_s / $3 * (n + random() * (1 - r.share))) AS from_time,
           make_interval(secs => r.for_s / $3 * r.share) AS length, r.share
    FROM reach r
    CROSS JOIN generate_series(0, $3 - 1) AS n
)
SELECT coalesce((SELECT for_s FROM reach), 0) AS reach_s, coalesce(sum(looked.live / s.share), 0)::float8 AS requests
FROM slices s
CROSS JOIN LATERAL (
    SELECT count(*) AS live
    FROM caspen_sync.attempt t
    WHERE t.account = $1 AND t.started_at >= s.from_time AND t.started_at < s.from_time + s.length
      AND EXISTS (
          SELECT FROM caspen_sync.outbox o
          WHERE o.account = ANY (ARRAY[t.account]) AND o.id IN (t.change_ids[1], t.change_ids[cardinality(t.change_ids)]) AND o.lane = 'live'
      )
) AS looked
