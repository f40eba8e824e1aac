-- Gives back a probe that sent nothing: another request may find out at once whether the account is welcome.
-- In:  $1 accounts text[].
UPDATE caspen_sync.account a
SET probe_until = NULL
FROM unnest($1::text[]) AS w (account)
WHERE a.account = w.account AND a.pause_kind = 'refused'
