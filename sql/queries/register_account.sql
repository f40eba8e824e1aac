-- Writes down an account's limits as configured.
-- In:  $1 account text, $2 rate_limit int, $3 rate_window_s float8, $4 rate_guard_s float8, $5 live_reserve float8.
-- Out: one row: how many slots the account is to have; fewer than its limit, if the API grants fewer.
--
-- Locks the account's row until the transaction ends, so that of two hosts that start at once one adjusts the slots
-- after the other.
INSERT INTO caspen_sync.account AS a (account, rate_limit, rate_window_s, rate_guard_s, live_reserve)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account) DO UPDATE SET
    rate_limit = excluded.rate_limit, rate_window_s = excluded.rate_window_s,
    rate_guard_s = excluded.rate_guard_s, live_reserve = excluded.live_reserve
RETURNING least(a.rate_limit, a.told_limit) AS slots
