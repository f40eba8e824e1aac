-- The probe is back, whatever came of it: when the pause lets it, another one may go.
-- In:  $1 accounts text[].
UPDATE caspen_sync.account a
SET probe_until = NULL
FROM unnest($1::text[]) AS w (account)
WHERE a.account = w.account AND a.probe_until IS NOT NULL
