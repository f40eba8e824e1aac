-- Where a change comes from, for those who trace: the W3C trace context of the writer's span. The column has no default
-- and no constraint, so it is added without a look at the rows; whatever is no trace context is ignored.

ALTER TABLE caspen_sync.outbox ADD COLUMN traceparent text;

-- Where `migrate --roles` ran before: the same rights on what is new; see roles.sql. `status` tells a reader besides what
-- has arrived and was not taken in yet.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_writer') THEN
        GRANT INSERT (traceparent) ON caspen_sync.outbox TO caspen_sync_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_reader') THEN
        GRANT SELECT ON caspen_sync.arrival TO caspen_sync_reader;
    END IF;
END
$$;
