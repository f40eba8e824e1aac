-- How many connections there may be, and how many others have.
-- In:  $1 our application_name text.
-- Out: one row: the limits of server, database and login (null: none), and how many of each are in use by others.
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0) AS server_limit,
       CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit END AS database_limit,
       CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit END AS login_limit,
       others.in_server, others.in_database, others.of_login, d.datname::text AS database, r.rolname::text AS login
FROM pg_catalog.pg_database d
CROSS JOIN pg_catalog.pg_roles r
CROSS JOIN LATERAL (
    SELECT count(*)::int AS in_server, count(*) FILTER (WHERE a.datid = d.oid)::int AS in_database,
           count(*) FILTER (WHERE a.usesysid = r.oid)::int AS of_login
    FROM pg_catalog.pg_stat_activity a
    -- Background processes have no database or no user.
    WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL AND a.application_name <> $1
) AS others
WHERE d.datname = current_database() AND r.rolname = session_user
