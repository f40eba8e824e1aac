-- Which accounts are there as configured, slots included, so that nothing has to be written down for them.
-- In, as columns of equal length: $1 account text[], $2 rate_limit int[], $3 rate_window_s float8[],
--     $4 rate_guard_s float8[], $5 live_reserve float8[].
-- Out: those accounts.
SELECT a.account
FROM unnest($1::text[], $2::int[], $3::float8[], $4::float8[], $5::float8[])
    AS wanted (account, rate_limit, rate_window_s, rate_guard_s, live_reserve)
JOIN caspen_sync.account a USING (account)
CROSS JOIN LATERAL (
    SELECT count(*) AS slots FROM caspen_sync.rate_slot r WHERE r.account = a.account
) AS there
WHERE a.rate_limit = wanted.rate_limit AND a.rate_window_s = wanted.rate_window_s
  AND a.rate_guard_s = wanted.rate_guard_s AND a.live_reserve = wanted.live_reserve
  AND there.slots = least(a.rate_limit, a.told_limit)
