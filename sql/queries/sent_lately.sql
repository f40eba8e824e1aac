-- The requests of all accounts in the last minutes, by minute and outcome.
-- In:  $1 minutes int.
-- Out: a row for each minute and outcome that there was, oldest first, and one without an outcome for a minute without requests:
--      how many requests, how many changes they carried, and when the last of them began.
--
-- By account first, so that whatever the statistics say, each is looked up in the index by its name.
SELECT m.minute, s.outcome, coalesce(s.requests, 0) AS requests, coalesce(s.changes, 0) AS changes, s.last_at
FROM generate_series(date_bin('1 minute', now(), timestamptz 'epoch') - make_interval(mins => $1 - 1), now(), '1 minute')
    AS m (minute)
LEFT JOIN (
    SELECT t.minute, t.outcome, sum(t.requests)::int AS requests, sum(t.changes)::int AS changes, max(t.last_at) AS last_at
    FROM caspen_sync.account a
    CROSS JOIN LATERAL (
        SELECT date_bin('1 minute', t.started_at, timestamptz 'epoch') AS minute, t.outcome, count(*) AS requests,
               sum(cardinality(t.change_ids)) AS changes, max(t.started_at) AS last_at
        FROM caspen_sync.attempt t
        WHERE t.account = a.account
          AND t.started_at >= date_bin('1 minute', now(), timestamptz 'epoch') - make_interval(mins => $1 - 1)
        GROUP BY 1, 2
    ) AS t
    GROUP BY 1, 2
) AS s USING (minute)
ORDER BY m.minute, s.outcome
