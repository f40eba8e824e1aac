-- Brings the probes of refused accounts forward, when there is another token to try than the one that was refused.
-- In, as columns of equal length, in the order of accounts: $1 account text[], $2 fingerprint of the token text[].
-- Out: the accounts for which that changed anything.
UPDATE caspen_sync.account a
SET paused_until = least(a.paused_until, clock_timestamp()), pauses = 0
FROM unnest($1::text[], $2::text[]) AS had (account, token)
WHERE a.account = had.account AND a.pause_kind = 'refused' AND a.refused_token IS DISTINCT FROM had.token
RETURNING a.account
