-- Where caspen_sync.notify is switched off.
-- Out: a row for each place: role (null: any) and database (null: any). One row of nulls for the server's own file.
WITH place AS (
    SELECT r.rolname::text AS role, d.datname::text AS database
    FROM pg_catalog.pg_db_role_setting s
    LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    WHERE (s.setdatabase = 0 OR d.datname = current_database()) AND 'caspen_sync.notify=off' = ANY (s.setconfig)
)
SELECT role, database FROM place
UNION ALL
SELECT NULL, NULL WHERE current_setting('caspen_sync.notify', true) = 'off' AND NOT EXISTS (SELECT FROM place)
