-- Which server this is, and who we are there.
-- Out: one row; host and port are null for a local socket.
SELECT current_setting('server_version_num')::int AS version_number, current_setting('server_version') AS version,
       host(inet_server_addr()) AS host, inet_server_port() AS port,
       current_database()::text AS database, current_user::text AS login, pg_backend_pid() AS pid
