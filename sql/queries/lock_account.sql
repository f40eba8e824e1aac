-- Locks accounts until the transaction ends, so that what fails in several processes is counted one after the other.
-- The account comes before the rows of all other tables: whoever changes its limit locks it before its slots, too.
-- In:  $1 accounts text[].
SELECT account FROM caspen_sync.account WHERE account = ANY ($1::text[]) ORDER BY account FOR UPDATE
