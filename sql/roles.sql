-- Least-privilege roles. Applied by `caspen-sync migrate --roles`, or by hand: psql -f roles.sql. Safe to run again.
-- Making a role takes the right CREATEROLE; where an administrator has made the three already, granting takes none.
-- None can log in by itself; grant them to the users that can:
--     GRANT caspen_sync_writer TO clinic_app;
--     GRANT caspen_sync_worker TO caspen_sync_service;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['caspen_sync_writer', 'caspen_sync_worker', 'caspen_sync_reader'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- roles belong to the whole server: another database, or another host at this moment, made it
        END;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA caspen_sync TO caspen_sync_writer, caspen_sync_worker, caspen_sync_reader;

-- writer: the application. It can insert changes and do nothing else, not even read them back.
GRANT INSERT (account, appointment_id, changes, lane, source, traceparent) ON caspen_sync.outbox TO caspen_sync_writer;

-- worker: `run` and the operator's commands. It owns nothing and cannot change the schema.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA caspen_sync TO caspen_sync_worker;
REVOKE ALL ON caspen_sync.appointment_lock FROM caspen_sync_worker;
REVOKE INSERT, UPDATE, DELETE ON caspen_sync.migration FROM caspen_sync_worker;

-- reader: dashboards and support. Sees what is going on and why, but no body: notes are about patients. Who may read
-- those is granted SELECT on caspen_sync.appointment, and on outbox (changes), besides.
GRANT SELECT (id, account, appointment_id, lane, source, created_at, as_of, state, attempts, last_error, finished_at)
    ON caspen_sync.outbox TO caspen_sync_reader;
GRANT SELECT (account, appointment_id, synced_at, last_change_id) ON caspen_sync.appointment TO caspen_sync_reader;
GRANT SELECT ON caspen_sync.arrival, caspen_sync.attempt, caspen_sync.queue, caspen_sync.account, caspen_sync.rate_slot,
    caspen_sync.worker, caspen_sync.run_up, caspen_sync.backfill, caspen_sync.backfill_left_out,
    caspen_sync.pruned, caspen_sync.migration
    TO caspen_sync_reader;
GRANT SELECT (id, account, change_id, action, at, who, reason, left_out)
    ON caspen_sync.intervention TO caspen_sync_reader;
