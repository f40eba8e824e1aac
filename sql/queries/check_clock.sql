-- The server's clock.
-- Out: one row, Unix time.
SELECT extract(epoch FROM clock_timestamp())::float8 AS at
