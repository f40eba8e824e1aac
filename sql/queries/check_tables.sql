-- Our tables.
-- Out: the name of each; no row when the schema is not there.
SELECT c.relname::text AS name
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'caspen_sync' AND c.relkind IN ('r', 'p')
