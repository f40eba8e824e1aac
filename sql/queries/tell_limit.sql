-- Writes down how many requests the API says that it grants in a window. Locks the account's row, as register_account does.
-- In:  $1 account text, $2 limit int.
-- Out: how many slots the account is to have from now on; no row when it was known already.
UPDATE caspen_sync.account a
SET told_limit = $2
WHERE a.account = $1 AND a.told_limit IS DISTINCT FROM $2
RETURNING least(a.rate_limit, a.told_limit) AS slots
