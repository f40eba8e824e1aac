-- Which server this is, and who we are there.
-- Out: one row; host and port are null for a local socket. chooses_partitions: whether the schema is partitioned, and the
--      server looks only where the account is.
SELECT current_setting('server_version_num')::int AS version_number, current_setting('server_version') AS version,
       host(inet_server_addr()) AS host, inet_server_port() AS port,
       current_database()::text AS database, current_user::text AS login, pg_backend_pid() AS pid,
       current_setting('enable_partition_pruning')::bool
       AND EXISTS (SELECT FROM pg_catalog.pg_class
                   WHERE relnamespace = to_regnamespace('caspen_sync') AND relkind = 'p') AS chooses_partitions
