-- Brings the probe of a refused account forward, when there is another token to try than the one that was refused.
-- In:  $1 account text, $2 fingerprint of the token text.
-- Out: the account, if that changed anything.
UPDATE caspen_sync.account a
SET paused_until = least(a.paused_until, clock_timestamp()), pauses = 0
WHERE a.account = $1 AND a.pause_kind = 'refused' AND a.refused_token IS DISTINCT FROM $2
RETURNING a.account
