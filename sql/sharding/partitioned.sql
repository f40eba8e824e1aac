-- Partitions each table that has an account by the hash of it. By hand, as the schema's owner or a superuser:
--     psql -v ON_ERROR_STOP=1 -c 'SET caspen_sync.partitions = 16' -f partitioned.sql
--
-- Stop the workers first. It is one transaction, which copies what is in the tables and keeps writers waiting meanwhile;
-- where it cannot have a lock at once it gives up, with nothing done. It may be run again, and is to be after a migration
-- that brings a new table: those that are partitioned already are left alone.
--
-- All is taken from the catalog, so that there is no second copy of the schema to go stale: columns, checks, defaults,
-- keys, indexes, triggers, rights, owners, counters and storage parameters are as the migrations and roles.sql made them.
-- What else somebody made of the tables, a view perhaps, stops it: drop that, and make it anew afterwards.
--
-- Partitions stand in a schema of their own, in which nobody else has rights: whoever wrote into one directly would go
-- past the triggers, and past the rights of its table. The old tables wait there to be copied.
--
-- Up to 18.6, PostgreSQL 18 can crash, the whole server, when it chooses partitions while it looks once more at a row that
-- changed under a lock, which a claim does every day (mended by commit 1b5dd3a of its own; 17 and earlier do not have it).
-- There it must not choose partitions at run time: a lookup then goes through each, which is slower.

DO $$
DECLARE
    outbox  regclass := to_regclass('caspen_sync.outbox');
    owner   regrole  := (SELECT relowner FROM pg_catalog.pg_class WHERE oid = outbox);
    parts   integer  := coalesce(nullif(current_setting('caspen_sync.partitions', true), '')::integer,
                                 (SELECT nullif(count(*), 0) FROM pg_catalog.pg_inherits WHERE inhparent = outbox), 16);
    tables  oid[]    := ARRAY(SELECT c.oid FROM pg_catalog.pg_class c
                              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account'
                              WHERE c.relnamespace = to_regnamespace('caspen_sync') AND c.relkind = 'r' ORDER BY c.relname);
    old     record;
    counter record;
    made    text[]; -- what the new table gets once the rows are in it
    ddl     text;
BEGIN
    IF outbox IS NULL THEN
        RAISE EXCEPTION 'there is no schema caspen_sync' USING HINT = 'Run caspen-sync migrate first.';
    ELSIF current_setting('server_version_num')::integer BETWEEN 180000 AND 180006
          AND current_setting('enable_partition_pruning')::boolean THEN
        RAISE EXCEPTION 'PostgreSQL % can crash under partitioned tables', current_setting('server_version')
            USING HINT = format('Update it to a version after 18.6; or ALTER DATABASE %I SET '
                                'enable_partition_pruning = off, connect anew and run this again.', current_database());
    ELSIF parts < 1 THEN
        RAISE EXCEPTION 'caspen_sync.partitions is %, and must be at least 1', parts;
    ELSIF cardinality(tables) = 0 THEN
        RETURN;
    END IF;
    -- Less than deadlock_timeout: should it come to that, it is no worker that is ended. Nor do writers wait for long.
    PERFORM set_config('lock_timeout', '900ms', true);
    EXECUTE format('CREATE SCHEMA IF NOT EXISTS caspen_sync_partitions AUTHORIZATION %s', owner);
    -- What is made belongs to whom the rest belongs to, with whose rights the triggers write.
    EXECUTE format('SET LOCAL ROLE %s', owner);
    EXECUTE (SELECT format('LOCK TABLE %s', string_agg(t::regclass::text, ', ')) FROM unnest(tables) AS t);

    FOR old IN
        SELECT c.oid, c.relname AS name, format('caspen_sync.%I', c.relname) AS new, c.relowner, c.relacl,
               'WITH (' || array_to_string(c.reloptions, ', ') || ')' AS options
        FROM pg_catalog.pg_class c
        WHERE c.oid = ANY (tables)
    LOOP
        made := ARRAY(
            SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', old.new, k.conname, pg_get_constraintdef(k.oid))
            FROM pg_catalog.pg_constraint k
            WHERE k.conrelid = old.oid AND k.contype IN ('p', 'u', 'x')
        ) || ARRAY(
            SELECT pg_get_indexdef(i.indexrelid)
            FROM pg_catalog.pg_index i
            WHERE i.indrelid = old.oid
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
        ) || ARRAY(
            SELECT pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = old.oid AND NOT t.tgisinternal
        ) || ARRAY(
            SELECT format('ALTER TABLE %s %s TRIGGER %I', old.new, CASE t.tgenabled WHEN 'D' THEN 'DISABLE'
                          WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, t.tgname)
            FROM pg_catalog.pg_trigger t
            WHERE t.tgrelid = old.oid AND NOT t.tgisinternal AND t.tgenabled <> 'O'
        ) || ARRAY(
            SELECT format('GRANT %s %s ON %s TO %s %s', g.privilege_type, g.of_column, old.new,
                          CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END,
                          CASE WHEN g.is_grantable THEN 'WITH GRANT OPTION' END)
            FROM (
                SELECT x.grantee, x.privilege_type, x.is_grantable, '' AS of_column FROM aclexplode(old.relacl) AS x
                UNION ALL
                SELECT x.grantee, x.privilege_type, x.is_grantable, format('(%I)', a.attname)
                FROM pg_catalog.pg_attribute a
                CROSS JOIN LATERAL aclexplode(a.attacl) AS x
                WHERE a.attrelid = old.oid
            ) AS g
            WHERE g.grantee <> old.relowner
        );
        -- A counter that stands by itself stays where it is. That of an identity column is made with the table, and set.
        FOR counter IN
            SELECT format('caspen_sync.%I', c.relname) AS name, a.attname AS of_column, d.deptype, s.last_value AS last
            FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            JOIN pg_catalog.pg_sequences s ON s.schemaname = 'caspen_sync' AND s.sequencename = c.relname
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = old.oid
        LOOP
            IF counter.deptype = 'i' THEN
                made := made || format('SELECT setval(pg_get_serial_sequence(%L, %L), %L)', old.new, counter.of_column,
                                       counter.last);
            ELSE
                EXECUTE format('ALTER SEQUENCE %s OWNED BY NONE', counter.name);
                made := made || format('ALTER SEQUENCE %s OWNED BY %s.%I', counter.name, old.new, counter.of_column);
            END IF;
        END LOOP;

        EXECUTE format('ALTER TABLE %s SET SCHEMA caspen_sync_partitions', old.new);
        EXECUTE format('CREATE TABLE %s (LIKE caspen_sync_partitions.%I INCLUDING ALL EXCLUDING INDEXES) '
                       'PARTITION BY HASH (account)', old.new, old.name);
        -- A partitioned table has no storage parameters; its partitions have.
        FOR nth IN 0 .. parts - 1 LOOP
            EXECUTE format('CREATE TABLE caspen_sync_partitions.%I PARTITION OF %s '
                           'FOR VALUES WITH (MODULUS %s, REMAINDER %s) %s',
                           old.name || '_' || nth, old.new, parts, nth, old.options);
        END LOOP;
        EXECUTE format('INSERT INTO %s OVERRIDING SYSTEM VALUE SELECT * FROM caspen_sync_partitions.%I',
                       old.new, old.name);
        EXECUTE format('DROP TABLE caspen_sync_partitions.%I', old.name);
        FOREACH ddl IN ARRAY made LOOP
            EXECUTE ddl;
        END LOOP;
    END LOOP;
END
$$;
