-- Pauses accounts; read by every claim, so that all processes obey at once.
-- In, as columns of equal length, each account once: $1 account text[], $2 kind text[], $3 reason text[],
--     $4 wait float8[] (s), $5 of which so much is over float8[] (s), $6 longest wait float8[] (s), $7 the request that
--     says so started so long ago float8[] (s), $8 fingerprint of the refused token text[].
-- Out: a row for each account whose pause began or was prolonged: kind, reason, for how many seconds from now, how often
--      in a row, and whether it began.
--
-- Each kind outranks those before it: a 429 during a refusal prolongs the pause and leaves it a refusal; an API that is
-- down at the time of a probe does so too. What was turned away waits twice as long each time in a row, up to the longest
-- wait. Of several requests that were on the wire when the account was paused, the first one counts: the others
-- started before the pause. A pause by hand is ended by hand, and by nothing else.
WITH told AS (
    SELECT t.account, t.kind, t.reason, t.wait_s, t.waited_s, t.longest_s, t.age_s, t.token,
           array_position(ARRAY['throttled', 'down', 'rejected', 'refused', 'manual'], t.kind) AS rank
    FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::text[])
        AS t (account, kind, reason, wait_s, waited_s, longest_s, age_s, token)
), locked AS MATERIALIZED (
    SELECT t.account, t.kind, t.reason, t.wait_s, t.waited_s, t.longest_s, t.age_s, t.token, t.rank,
           CASE WHEN a.pause_kind IS NULL OR (a.pause_kind = 'throttled' AND a.paused_until <= clock_timestamp()) THEN 0
                ELSE array_position(ARRAY['throttled', 'down', 'rejected', 'refused', 'manual'], a.pause_kind)
           END AS paused_rank
    FROM told t
    JOIN caspen_sync.account a USING (account)
    ORDER BY a.account
    FOR UPDATE OF a
)
UPDATE caspen_sync.account a
SET paused_at = CASE WHEN l.kind = 'throttled' AND l.paused_rank > 1 THEN a.paused_at ELSE clock_timestamp() END,
    pause_kind = CASE WHEN l.rank > l.paused_rank THEN l.kind ELSE a.pause_kind END,
    pause_reason = CASE WHEN l.rank >= l.paused_rank THEN l.reason ELSE a.pause_reason END,
    pauses = CASE WHEN l.kind = 'throttled' THEN a.pauses WHEN l.rank > l.paused_rank THEN 1 ELSE a.pauses + 1 END,
    refused_token = coalesce(l.token, a.refused_token),
    paused_until = greatest(a.paused_until, clock_timestamp() + make_interval(secs =>
        CASE WHEN l.kind <> 'throttled' AND l.rank <= l.paused_rank
             THEN least(l.longest_s, l.wait_s * 2 ^ least(a.pauses, 30)) ELSE l.wait_s END - l.waited_s))
FROM locked l
WHERE a.account = l.account
  AND l.paused_rank < 5
  AND (l.kind = 'throttled' OR l.rank > l.paused_rank
       OR a.paused_at < clock_timestamp() - make_interval(secs => l.age_s))
RETURNING a.account, a.pause_kind AS kind, a.pause_reason AS reason, a.pauses, l.rank > l.paused_rank AS began,
          (extract(epoch FROM a.paused_until - clock_timestamp()))::float8 AS for_s
