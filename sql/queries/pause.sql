-- Pauses accounts; read by every claim, so that all processes obey at once.
-- In, as columns of equal length, each account once: $1 account text[], $2 kind text[], $3 reason text[],
--     $4 wait float8[] (s), $5 of which so much is over float8[] (s), $6 longest wait float8[] (s), $7 the request that says so started so
--     long ago float8[] (s).
--
-- A refused account waits twice as long each time in a row, up to the longest wait. Of several requests that were on
-- the wire when the account was refused, the first one counts: the others started before the pause. A 429 during such a
-- pause prolongs it and leaves its kind: the probes go on.
WITH told AS (
    SELECT account, kind, reason, wait_s, waited_s, longest_s, age_s
    FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])
        AS t (account, kind, reason, wait_s, waited_s, longest_s, age_s)
), locked AS MATERIALIZED (
    SELECT t.account, t.kind, t.reason, t.wait_s, t.waited_s, t.longest_s, t.age_s
    FROM told t
    JOIN caspen_sync.account a USING (account)
    ORDER BY a.account
    FOR UPDATE OF a
)
UPDATE caspen_sync.account a
SET paused_at = CASE WHEN a.pause_kind = 'refused' AND l.kind = 'throttled' THEN a.paused_at ELSE clock_timestamp() END,
    pause_kind = CASE WHEN a.pause_kind = 'refused' THEN a.pause_kind ELSE l.kind END,
    pause_reason = CASE WHEN a.pause_kind = 'refused' AND l.kind <> 'refused' THEN a.pause_reason ELSE l.reason END,
    pauses = CASE WHEN l.kind = 'throttled' THEN a.pauses
                  WHEN a.pause_kind = 'refused' THEN a.pauses + 1 ELSE 1 END,
    probe_until = CASE WHEN l.kind = 'refused' THEN NULL ELSE a.probe_until END,
    paused_until = greatest(a.paused_until, clock_timestamp() + make_interval(secs =>
        CASE WHEN l.kind = 'refused' AND a.pause_kind = 'refused'
             THEN least(l.longest_s, l.wait_s * 2 ^ least(a.pauses, 30)) ELSE l.wait_s END - l.waited_s))
FROM locked l
WHERE a.account = l.account
  AND (l.kind = 'throttled' OR a.pause_kind IS DISTINCT FROM 'refused'
       OR a.paused_at < clock_timestamp() - make_interval(secs => l.age_s))
