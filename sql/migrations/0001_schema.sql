-- The schema of caspen-sync. Three things to know before reading on:
--
--   * Every primary key leads with `account`, so that the schema can be hash-partitioned or sharded by account.
--   * Keys compare by bytes (COLLATE "C"): ids are not prose, and an operating system that changes its idea of
--     alphabetical order must not corrupt an index or reverse a lock order.
--   * Whoever locks rows of several tables does so in this order: appointment_lock (writers only), account, queue, outbox,
--     appointment, rate_slot; and within one table by (account, appointment_id) or (account, slot).

CREATE SCHEMA IF NOT EXISTS caspen_sync;

-- ---------------------------------------------------------------------------------------------------------------
-- What an application writes
-- ---------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE caspen_sync.outbox_id_seq AS bigint;

CREATE TABLE caspen_sync.outbox (
    id             bigint      NOT NULL, -- drawn by the trigger outbox_id, never by the writer
    account        text        COLLATE "C" NOT NULL DEFAULT 'default',
    appointment_id text        COLLATE "C" NOT NULL,
    changes        jsonb       NOT NULL,
    lane           text        NOT NULL DEFAULT 'live',
    source         text,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- pending:   waits to be sent. Leaves to synced (the API accepted it), parked (the API refused it, or it breaks
    --            the contract) or discarded (a person said so).
    -- parked:    waits for a person. Leaves to pending (retry) or discarded.
    -- synced, discarded: final; deleted after the retention.
    state          text        NOT NULL DEFAULT 'pending',
    attempts       integer     NOT NULL DEFAULT 0,
    last_error     text,
    finished_at    timestamptz,
    PRIMARY KEY (account, id),
    CONSTRAINT outbox_account_given        CHECK (account <> ''),
    CONSTRAINT outbox_appointment_id_given CHECK (appointment_id <> ''),
    CONSTRAINT outbox_changes_object       CHECK (jsonb_typeof(changes) = 'object' AND changes <> '{}'),
    CONSTRAINT outbox_lane_known           CHECK (lane IN ('live', 'backfill')),
    CONSTRAINT outbox_state_known          CHECK (state IN ('pending', 'synced', 'parked', 'discarded'))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

ALTER SEQUENCE caspen_sync.outbox_id_seq OWNED BY caspen_sync.outbox.id;

-- A claim reads one appointment's pending changes in id order, and nothing else.
CREATE INDEX outbox_pending ON caspen_sync.outbox (account, appointment_id, id) WHERE state = 'pending';
CREATE INDEX outbox_parked  ON caspen_sync.outbox (account, id) WHERE state = 'parked';

-- One row for each appointment that ever had a change, locked by writers from before the id is drawn until they
-- commit. Nobody else touches it, so a writer's open transaction holds up other writers of that appointment only.
CREATE TABLE caspen_sync.appointment_lock (
    account        text COLLATE "C" NOT NULL,
    appointment_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, appointment_id)
);

-- One row for each committed change that the queue has not taken in yet. It becomes visible in the instant in which
-- its change does, and only the statement that puts the appointment into the queue deletes it: no wake-up is lost,
-- and a writer never has to lock a row of the queue.
CREATE TABLE caspen_sync.arrival (
    account        text   COLLATE "C" NOT NULL,
    lane           text   NOT NULL,
    change_id      bigint NOT NULL,
    appointment_id text   COLLATE "C" NOT NULL,
    PRIMARY KEY (account, lane, change_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- ---------------------------------------------------------------------------------------------------------------
-- What the workers compete for
-- ---------------------------------------------------------------------------------------------------------------

-- One row for each appointment: the right to speak for it, and when that is due.
--   idle:     due_at = infinity, nothing to send.
--   due:      due_at <= now, free to claim.
--   waiting:  due_at in the future, no lease: backing off or resting.
--   leased:   due_at = leased_until, in the future. When the lease runs out, the row is due again by itself: the
--             rescue of a dead worker's claim needs no reaper.
CREATE TABLE caspen_sync.queue (
    account        text        COLLATE "C" NOT NULL,
    appointment_id text        COLLATE "C" NOT NULL,
    lane           text        NOT NULL,
    due_at         timestamptz NOT NULL,
    newest_id      bigint      NOT NULL,           -- the newest outbox id that the queue knows of
    token          uuid,                           -- fencing token: another one with each claim and each settling
    leased_until   timestamptz,
    worker         text,
    failures       integer     NOT NULL DEFAULT 0, -- claims in a row that ended without an answer to keep
    part_size      integer,                        -- after a refusal: how many changes to fold at most
    PRIMARY KEY (account, appointment_id),
    CONSTRAINT queue_lane_known   CHECK (lane IN ('live', 'backfill')),
    CONSTRAINT queue_part_size    CHECK (part_size >= 1),
    CONSTRAINT queue_lease_is_due CHECK (leased_until IS NULL OR leased_until = due_at)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.02);

-- The claim walks this from its low end and stops at now: idle, waiting and leased rows cost it nothing.
CREATE INDEX queue_due ON caspen_sync.queue (account, lane, due_at) WHERE due_at < 'infinity';

CREATE TABLE caspen_sync.account (
    account       text             COLLATE "C" NOT NULL PRIMARY KEY,
    rate_limit    integer          NOT NULL CHECK (rate_limit >= 1),
    rate_window_s double precision NOT NULL CHECK (rate_window_s > 0),
    rate_guard_s  double precision NOT NULL CHECK (rate_guard_s >= 0),
    live_reserve  double precision NOT NULL CHECK (live_reserve >= 0 AND live_reserve < 1),
    -- A pause stops all claims of the account, in every process, until paused_until.
    --   throttled: the API said 429; ends by itself.
    --   refused:   the API said 401 or 403; after paused_until one probe at a time finds out whether it still does.
    paused_until  timestamptz,
    paused_at     timestamptz,
    pause_kind    text             CHECK (pause_kind IN ('throttled', 'refused')),
    pause_reason  text,
    pauses        integer          NOT NULL DEFAULT 0, -- refusals in a row
    probe_until   timestamptz                          -- a probe is on its way, and decides at the latest by then
) WITH (fillfactor = 50);

-- The budget: exactly rate_limit rows for each account. A request takes a row whose free_at has passed.
-- free_at is in no index and pages are half empty, so that taking and cooling a slot stays a heap-only update.
CREATE TABLE caspen_sync.rate_slot (
    account text        COLLATE "C" NOT NULL,
    slot    integer     NOT NULL,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (account, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

-- ---------------------------------------------------------------------------------------------------------------
-- What the workers write
-- ---------------------------------------------------------------------------------------------------------------

-- The synced state: the AppointmentResource of the newest accepted request.
CREATE TABLE caspen_sync.appointment (
    account                text        COLLATE "C" NOT NULL,
    appointment_id         text        COLLATE "C" NOT NULL,
    id                     text,
    location_id            text,
    practitioner_id        text,
    service_id             text,
    client_id              text,
    client_package_id      text,
    case_id                text,
    starts_at              timestamptz,
    ends_at                timestamptz,
    duration               bigint, -- minutes
    status                 text,
    confirmed              boolean,
    confirmed_at           timestamptz,
    room_id                text,
    vehicle_id             text,
    resource_ids           text[],
    note                   text,
    cancellation_reason_id text,
    cancellation_note      text,
    cancelled_at           timestamptz,
    created_at             timestamptz,
    resource               jsonb       NOT NULL, -- the whole answer, undocumented fields too
    synced_at              timestamptz NOT NULL,
    last_change_id         bigint      NOT NULL, -- the newest outbox id that the answer includes
    PRIMARY KEY (account, appointment_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- One row for each HTTP request.
CREATE TABLE caspen_sync.attempt (
    id             bigint           GENERATED ALWAYS AS IDENTITY,
    account        text             COLLATE "C" NOT NULL,
    appointment_id text             COLLATE "C" NOT NULL,
    change_ids     bigint[]         NOT NULL,
    started_at     timestamptz      NOT NULL,
    duration_ms    double precision NOT NULL,
    http_status    smallint, -- null: no answer
    outcome        text             NOT NULL,
    error          text,
    worker         text             NOT NULL,
    PRIMARY KEY (account, appointment_id, id)
);

-- Who is alive: one row for each process and account it works for.
CREATE TABLE caspen_sync.worker (
    account    text        COLLATE "C" NOT NULL,
    worker     text        COLLATE "C" NOT NULL, -- host:pid:random
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    PRIMARY KEY (account, worker)
) WITH (fillfactor = 70);
