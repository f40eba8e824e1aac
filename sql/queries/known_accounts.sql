-- The accounts that any worker has ever worked for.
SELECT account FROM caspen_sync.account ORDER BY account
