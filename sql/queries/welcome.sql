-- Ends the pause of accounts whose probe the API accepted.
-- In:  $1 accounts text[].
UPDATE caspen_sync.account a
SET paused_until = NULL, paused_at = NULL, pause_kind = NULL, pause_reason = NULL, pauses = 0, probe_until = NULL
FROM unnest($1::text[]) AS w (account)
WHERE a.account = w.account AND a.pause_kind = 'refused'
