-- How many requests an account makes for live changes.
-- In:  $1 account text, $2 how far to look back float8 (s), $3 in how many slices to part that time int, $4 what share of
--      each slice to look at float8 (0 to 1).
-- Out: one row: how far back the attempts reach within that (s; 0: there are none), and how many of the requests carried a
--      live change, reckoned from those that were looked at.
--
-- Each slice is looked at from a moment of chance on, or a cron job that comes in step with them would be seen each time.
-- Of the changes in a request the oldest and the newest are looked up.
WITH reach AS MATERIALIZED (
    SELECT greatest(first.started_at, now() - make_interval(secs => $2)) AS since
    FROM (SELECT t.started_at FROM caspen_sync.attempt t WHERE t.account = $1 ORDER BY t.started_at LIMIT 1) AS first
), slices AS MATERIALIZED (
    SELECT r.since + (n + random() * (1 - $4)) * ((now() - r.since) / $3) AS from_time, (now() - r.since) / $3 * $4 AS length
    FROM reach r
    CROSS JOIN generate_series(0, $3 - 1) AS n
)
SELECT coalesce((SELECT extract(epoch FROM now() - since)::float8 FROM reach), 0) AS reach_s,
       coalesce(sum(looked.live) / $4, 0)::float8 AS requests
FROM slices s
CROSS JOIN LATERAL (
    SELECT count(*) AS live
    FROM caspen_sync.attempt t
    WHERE t.account = $1 AND t.started_at >= s.from_time AND t.started_at < s.from_time + s.length
      AND EXISTS (
          SELECT FROM caspen_sync.outbox o
          WHERE o.account = $1 AND o.id IN (t.change_ids[1], t.change_ids[cardinality(t.change_ids)]) AND o.lane = 'live'
      )
) AS looked
