-- Says that this process is alive, and forgets those that have not said so for a day.
-- In:  $1 accounts text[], $2 worker text, $3 version text, $4 running for float8 (s).
WITH forgotten AS (
    DELETE FROM caspen_sync.worker w
    USING unnest($1::text[]) AS mine (account)
    WHERE w.account = mine.account AND w.worker <> $2 AND w.seen_at < now() - interval '1 day'
)
INSERT INTO caspen_sync.worker (account, worker, version, started_at, seen_at)
SELECT account, $2, $3, now() - make_interval(secs => $4), now()
FROM unnest($1::text[]) AS mine (account)
ORDER BY account
ON CONFLICT (account, worker) DO UPDATE SET seen_at = excluded.seen_at
