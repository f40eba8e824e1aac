-- Which of these rights a role does not have, be it by itself or by a role that it inherits from.
-- In:  $1 role text, and as columns of equal length: $2 privilege text[], $3 table text[] (null: the schema itself),
--      $4 column text[] (null: the whole table).
-- Out: a row for each that is missing. What is not there at all misses no right.
--
-- By the catalog's own numbers: who may not enter the schema may not name its tables either.
SELECT w.privilege, w.relation, w.attribute
FROM unnest($2::text[], $3::text[], $4::text[]) AS w (privilege, relation, attribute)
JOIN pg_catalog.pg_namespace n ON n.nspname = 'caspen_sync'
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
LEFT JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid AND t.attname = w.attribute AND NOT t.attisdropped
WHERE NOT CASE WHEN w.relation IS NULL THEN has_schema_privilege($1::name, n.oid, w.privilege)
               WHEN c.oid IS NULL THEN true
               WHEN w.attribute IS NULL THEN has_table_privilege($1::name, c.oid, w.privilege)
               WHEN t.attnum IS NULL THEN true
               ELSE has_column_privilege($1::name, c.oid, t.attnum, w.privilege) END
