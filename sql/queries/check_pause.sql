-- Why an account may have no slot to give.
-- In:  $1 account text.
-- Out: its pause, or null when it is not paused; no row when no worker has registered it yet.
SELECT CASE WHEN a.pause_kind <> 'throttled' OR a.paused_until > now() THEN a.pause_kind END AS pause_kind
FROM caspen_sync.account a
WHERE a.account = $1
