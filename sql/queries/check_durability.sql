-- What a crash of the server could lose.
-- Out: one row, of settings as they are for this connection.
SELECT current_setting('fsync')::bool AS fsync, current_setting('full_page_writes')::bool AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit
