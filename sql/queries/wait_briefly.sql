-- For the rest of the transaction: gives up rather than wait long for a lock.
-- In:  $1 longest wait for a lock text.
-- Out: nothing of interest.
SELECT set_config('lock_timeout', $1, true)
