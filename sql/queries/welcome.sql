-- Ends the pause of accounts whose probe the API accepted. A throttle has nothing to do with it, and a pause by hand is
-- ended by hand.
-- In:  $1 accounts text[].
-- Out: the accounts whose pause this ended.
UPDATE caspen_sync.account a
SET paused_until = NULL, paused_at = NULL, pause_kind = NULL, pause_reason = NULL, pauses = 0, probe_until = NULL,
    welcomed_at = clock_timestamp()
FROM unnest($1::text[]) AS w (account)
WHERE a.account = w.account AND a.pause_kind IN ('down', 'rejected', 'refused')
RETURNING a.account
