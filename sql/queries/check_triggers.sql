-- The triggers on the outbox.
-- Out: a row for each: its name, and whether it fires for an application's insert. No row: no trigger, or no outbox.
SELECT t.tgname::text AS name, t.tgenabled IN ('O', 'A') AS fires
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'caspen_sync' AND c.relname = 'outbox' AND NOT t.tgisinternal
