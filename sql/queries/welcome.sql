-- Ends the pause of accounts whose probe the API would answer. A throttle has nothing to do with it, and a pause by hand is
-- ended by hand.
-- In, as columns of equal length: $1 account text[], $2 whether the probe was accepted boolean[]: a rejection shows that the
--     API is there and takes the token, but not that it takes anything else.
-- Out: the accounts whose pause this ended.
UPDATE caspen_sync.account a
SET paused_until = NULL, paused_at = NULL, pause_kind = NULL, pause_reason = NULL, pauses = 0, probe_until = NULL,
    welcomed_at = CASE WHEN w.accepted THEN clock_timestamp() ELSE a.welcomed_at END
FROM unnest($1::text[], $2::boolean[]) AS w (account, accepted)
WHERE a.account = w.account AND a.pause_kind IN ('down', 'rejected', 'refused')
RETURNING a.account
