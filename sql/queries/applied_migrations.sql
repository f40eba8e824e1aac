-- Out: the number of each migration that was applied, in order.
SELECT number FROM caspen_sync.migration ORDER BY number
