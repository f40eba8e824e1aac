-- Who is alive: the processes that said so lately.
-- In:  $1 how lately float8 (s).
-- Out: a row for each process: its accounts, version and since when it runs.
SELECT worker, min(version) AS version, min(started_at) AS started_at, max(seen_at) AS seen_at,
       array_agg(account ORDER BY account) AS accounts
FROM caspen_sync.worker
WHERE seen_at > clock_timestamp() - make_interval(secs => $1)
GROUP BY worker
ORDER BY min(started_at)
