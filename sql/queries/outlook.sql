-- When it is worth asking for a claim again.
-- In:  $1 accounts text[].
-- Out: one row for each: seconds until something could be claimed (null: nothing in sight; 0 or less: now), whether there
--      is anything to send now or later, whether an appointment is due already and only budget or a pause is in the way,
--      for how long the account is paused still (null: not, or until a person says so) and why (a throttle that is over is no
--      pause), and whether changes have arrived that the queue has not taken in.
-- Backfill needs one slot more than the reserve, so its time is that of the slot behind the reserve.
SELECT a.account,
       CASE WHEN a.pause_kind IS DISTINCT FROM 'manual' THEN (extract(epoch FROM least(
            CASE WHEN live.due_at IS NOT NULL THEN greatest(live.due_at, slots.first, a.paused_until, a.probe_until) END,
            CASE WHEN backfill.due_at IS NOT NULL THEN greatest(backfill.due_at, slots.behind_reserve, a.paused_until, a.probe_until) END
        ) - clock_timestamp()))::float8 END AS ready_in_s,
       live.due_at IS NOT NULL OR backfill.due_at IS NOT NULL OR arrived.something IS NOT NULL AS waits,
       coalesce(least(live.due_at, backfill.due_at) <= clock_timestamp(), false) AS due,
       CASE WHEN a.pause_kind <> 'manual'
            THEN (extract(epoch FROM a.paused_until - clock_timestamp()))::float8 END AS paused_for_s,
       kind.pause_kind,
       a.pause_reason,
       arrived.something IS NOT NULL AS arrivals
FROM unnest($1::text[]) AS asked (account)
JOIN caspen_sync.account a USING (account)
CROSS JOIN LATERAL (
    SELECT CASE WHEN a.pause_kind <> 'throttled' OR a.paused_until > clock_timestamp() THEN a.pause_kind END AS pause_kind
) AS kind
CROSS JOIN LATERAL (
    SELECT min(q.due_at) AS due_at FROM caspen_sync.queue q
    WHERE q.account = a.account AND q.lane = 'live' AND q.due_at < 'infinity'
) AS live
CROSS JOIN LATERAL (
    SELECT min(q.due_at) AS due_at FROM caspen_sync.queue q
    WHERE q.account = a.account AND q.lane = 'backfill' AND q.due_at < 'infinity'
) AS backfill
CROSS JOIN LATERAL (
    SELECT min(s.free_at) AS first, max(s.free_at) AS behind_reserve
    FROM (SELECT r.free_at FROM caspen_sync.rate_slot r
          WHERE r.account = a.account AND coalesce(live.due_at, backfill.due_at) IS NOT NULL -- or nobody needs one
          ORDER BY r.free_at LIMIT 1 + floor(least(a.rate_limit, a.told_limit) * a.live_reserve)::int) AS s
) AS slots
LEFT JOIN LATERAL (
    SELECT true AS something FROM caspen_sync.arrival x
    WHERE x.account = a.account AND x.lane IN ('live', 'backfill')
    LIMIT 1
) AS arrived ON true
