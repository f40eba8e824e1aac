-- Backfills: what a file or a query says of many appointments, carried in the lane that leaves room for today's changes.

-- How old the data of a change is, where that is not when it was written: a file of last month's says what was so then.
-- Added without a look at the rows: it has no default and no constraint.
ALTER TABLE caspen_sync.outbox ADD COLUMN as_of timestamptz;

-- One row for each backfill and account. Its lines are read into backfill_line first; when all are there and valid they
-- are accepted, in one instant, and then moved into the outbox step by step. Whatever kills the process in between, the
-- same command goes on from here.
CREATE TABLE caspen_sync.backfill (
    account        text        COLLATE "C" NOT NULL,
    name           text        COLLATE "C" NOT NULL, -- also the `source` of its changes in the outbox
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_by     text        NOT NULL,
    touched_at     timestamptz NOT NULL DEFAULT clock_timestamp(), -- when a process began to load it last
    token          uuid        NOT NULL,             -- fencing token of the process that loads: the latest one
    accepted_nth   bigint      NOT NULL DEFAULT 0,   -- lines up to here were all valid; what is behind is being read
    loaded_nth     bigint      NOT NULL DEFAULT 0,   -- lines up to here are in the outbox
    lines          bigint      NOT NULL DEFAULT 0,   -- accepted
    loaded         bigint      NOT NULL DEFAULT 0,   -- of those, in the outbox
    outdated       bigint      NOT NULL DEFAULT 0,   -- of those, with nothing to send: newer changes had set all of it
    left_out       bigint      NOT NULL DEFAULT 0,   -- lines without some of their fields, or all, for that reason
    discarded      bigint      NOT NULL DEFAULT 0,   -- changes that a person gave up
    last_id        bigint,                           -- the newest outbox id of its changes
    loaded_at      timestamptz,                      -- when the last of the accepted lines was in the outbox
    cancelled_at   timestamptz,
    cancelled_by   text,
    forgotten_at   timestamptz,                      -- when its lines were deleted, being older than the retention
    PRIMARY KEY (account, name),
    CONSTRAINT backfill_name_given CHECK (name <> '')
) WITH (fillfactor = 50);

-- The lines, in the order in which they go. They are kept after they were loaded: it is by them that a second run knows
-- what is there already.
CREATE TABLE caspen_sync.backfill_line (
    account        text        COLLATE "C" NOT NULL,
    name           text        COLLATE "C" NOT NULL,
    nth            bigint      NOT NULL, -- counted through all runs
    line           bigint      NOT NULL, -- where it stood in the file
    appointment_id text        COLLATE "C" NOT NULL,
    changes        jsonb       NOT NULL,
    as_of          timestamptz NOT NULL,
    digest         uuid        NOT NULL, -- of the appointment and the changes: equal lines have equal ones
    PRIMARY KEY (account, name, nth)
);

-- What was left out of a line, since a newer change has set it.
CREATE TABLE caspen_sync.backfill_left_out (
    account        text        COLLATE "C" NOT NULL,
    name           text        COLLATE "C" NOT NULL,
    nth            bigint      NOT NULL,
    line           bigint      NOT NULL,
    appointment_id text        COLLATE "C" NOT NULL,
    change_id      bigint      NOT NULL, -- the line's own
    fields         text[]      NOT NULL,
    newer          bigint[]    NOT NULL, -- the changes that have set them, in the same order
    PRIMARY KEY (account, name, nth)
);

-- How far the retention has gone: whatever it has deleted of an account's changes was written before this. Of what the
-- versions before have deleted, nothing better is known than that.
CREATE TABLE caspen_sync.pruned (
    account text        COLLATE "C" NOT NULL PRIMARY KEY,
    until   timestamptz NOT NULL
) WITH (fillfactor = 50);

INSERT INTO caspen_sync.pruned (account, until) SELECT account, clock_timestamp() FROM caspen_sync.account;

-- The fields of an appointment that changes newer than `than` have set, with the change that did so last: what was synced,
-- and what is pending. A synced change that was deleted since is older than the retention was when it was deleted; where that
-- does not tell, it is taken for newer, since old data over newer is the worse mistake.
CREATE FUNCTION caspen_sync.newer_fields(of_account text, of_appointment text, than timestamptz)
RETURNS TABLE (field text, change_id bigint)
LANGUAGE sql STABLE AS $$
    SELECT n.field, max(n.change_id)
    FROM (
        SELECT s.key AS field, s.value::bigint AS change_id
        FROM caspen_sync.appointment a
        CROSS JOIN LATERAL jsonb_each_text(a.set_by) AS s
        LEFT JOIN LATERAL (
            -- A LIMIT, so that the planner looks it up by itself, whatever it knows of the table.
            SELECT c.as_of, c.created_at FROM caspen_sync.outbox c
            WHERE c.account = a.account AND c.id = s.value::bigint
            LIMIT 1
        ) AS o ON true
        LEFT JOIN caspen_sync.pruned p ON p.account = of_account
        WHERE a.account = of_account AND a.appointment_id = of_appointment AND a.synced_at > than
          AND coalesce(o.as_of, o.created_at, p.until, 'infinity') > than
        UNION ALL
        SELECT k.field, o.id
        FROM caspen_sync.outbox o
        CROSS JOIN LATERAL jsonb_object_keys(o.changes) AS k (field)
        WHERE o.account = of_account AND o.appointment_id = of_appointment AND o.state = 'pending'
          AND coalesce(o.as_of, o.created_at) > than
    ) AS n
    GROUP BY n.field
$$;

-- Where `migrate --roles` ran before: the same rights on what is new; see roles.sql.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_worker') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON caspen_sync.backfill, caspen_sync.backfill_line,
            caspen_sync.backfill_left_out, caspen_sync.pruned TO caspen_sync_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_reader') THEN
        GRANT SELECT (as_of) ON caspen_sync.outbox TO caspen_sync_reader;
        GRANT SELECT ON caspen_sync.backfill, caspen_sync.backfill_left_out, caspen_sync.pruned TO caspen_sync_reader;
    END IF;
END
$$;
