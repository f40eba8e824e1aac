-- What a fault of the account, of the API and of a person's making takes. The outbox is read once and not locked, so
-- writers go on meanwhile.

-- ---------------------------------------------------------------------------------------------------------------
-- Pauses
-- ---------------------------------------------------------------------------------------------------------------

ALTER TABLE caspen_sync.account
    DROP CONSTRAINT account_pause_kind_check,
    -- throttled: the API said 429; ends by itself.
    -- down:      the API failed for different appointments in a row.
    -- rejected:  the API rejected different appointments in a row for one reason, and accepted none.
    -- refused:   the API said 401 or 403.
    -- manual:    a person said so; ends when a person says so.
    -- After paused_until an account that is down, rejected or refused sends one probe at a time, until one is accepted.
    ADD CONSTRAINT account_pause_kind_known CHECK (pause_kind IN ('throttled', 'down', 'rejected', 'refused', 'manual')),
    ADD COLUMN told_limit    integer CHECK (told_limit >= 1), -- X-RateLimit-Limit; the lower of it and rate_limit rules
    ADD COLUMN refused_token text,                            -- fingerprint of the token that was refused last
    ADD COLUMN welcomed_at   timestamptz,                     -- when a probe was accepted last
    ADD COLUMN known_reason  text,                            -- a rejection that was found to be the changes' own fault
    ADD COLUMN known_at      timestamptz;

-- What failed, or was rejected, in a row: one row for each appointment since the API did better last. When they are as
-- many as the configuration says, the account pauses, the changes get back what they were charged, and what was parked
-- is pending again.
CREATE TABLE caspen_sync.run_up (
    account        text     COLLATE "C" NOT NULL,
    kind           text     COLLATE "C" NOT NULL,
    appointment_id text     COLLATE "C" NOT NULL,
    reason         text     NOT NULL,
    change_ids     bigint[] NOT NULL,
    charged        integer  NOT NULL, -- requests that were charged to each of these changes meanwhile
    PRIMARY KEY (account, kind, appointment_id),
    CONSTRAINT run_up_kind_known CHECK (kind IN ('down', 'rejected'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

ALTER TABLE caspen_sync.queue
    -- How often an older change became pending again since the appointment was claimed last. Above 0 it is due again
    -- after the claim. It is counted so that a claim sees whether what it read is the newest, see claim.sql.
    ADD COLUMN again integer NOT NULL DEFAULT 0,
    -- When it was turned away together with its account. If that happens again although the API has accepted another
    -- appointment since, it is this one's own fault.
    ADD COLUMN turned_away_at timestamptz;

-- While it is free_at, nobody uses the slot: it is held back, since somebody else uses the key. See hold_back.sql.
ALTER TABLE caspen_sync.rate_slot ADD COLUMN held_until timestamptz;

-- ---------------------------------------------------------------------------------------------------------------
-- Parked changes
-- ---------------------------------------------------------------------------------------------------------------

-- Which change set each field last: {"note": 17}. An older change that is sent after a newer one leaves those out.
ALTER TABLE caspen_sync.appointment ADD COLUMN set_by jsonb NOT NULL DEFAULT '{}';

-- Only appointments that have something older waiting need it; later requests write it for all.
UPDATE caspen_sync.appointment a
SET set_by = f.set_by
FROM (
    SELECT account, appointment_id, jsonb_object_agg(field, id) AS set_by
    FROM (
        SELECT o.account, o.appointment_id, key.field, max(o.id) AS id
        FROM caspen_sync.outbox o
        CROSS JOIN LATERAL jsonb_object_keys(o.changes) AS key (field)
        WHERE o.state = 'synced'
          AND (o.account, o.appointment_id) IN (SELECT account, appointment_id FROM caspen_sync.outbox
                                                WHERE state IN ('parked', 'pending'))
        GROUP BY o.account, o.appointment_id, key.field
    ) AS newest
    GROUP BY account, appointment_id
) AS f
WHERE a.account = f.account AND a.appointment_id = f.appointment_id;

-- What the API said to a change that it rejected: {"message": …, "errors": {field: [text, …]}}. It may quote the body.
CREATE TABLE caspen_sync.rejection (
    account   text        COLLATE "C" NOT NULL,
    change_id bigint      NOT NULL,
    at        timestamptz NOT NULL,
    messages  jsonb       NOT NULL,
    PRIMARY KEY (account, change_id)
);

-- What people did, and why.
CREATE TABLE caspen_sync.intervention (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    account        text        COLLATE "C" NOT NULL,
    change_id      bigint, -- null: the whole account
    action         text        NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    who            text        NOT NULL,
    reason         text,
    left_out       text[],     -- fields of the change that newer ones have set since
    former_changes jsonb,      -- edit: what the change said before
    PRIMARY KEY (account, id),
    CONSTRAINT intervention_action_known CHECK (action IN ('retry', 'discard', 'edit', 'pause', 'resume'))
);

CREATE INDEX intervention_change ON caspen_sync.intervention (account, change_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Retention
-- ---------------------------------------------------------------------------------------------------------------

-- Pruning walks the attempts in the order of time.
CREATE INDEX attempt_age ON caspen_sync.attempt (account, started_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Where `migrate --roles` ran before: the same rights on what is new; see roles.sql
-- ---------------------------------------------------------------------------------------------------------------

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_worker') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON caspen_sync.run_up, caspen_sync.rejection, caspen_sync.intervention
            TO caspen_sync_worker;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'caspen_sync_reader') THEN
        GRANT SELECT ON caspen_sync.run_up TO caspen_sync_reader;
        GRANT SELECT (id, account, change_id, action, at, who, reason, left_out)
            ON caspen_sync.intervention TO caspen_sync_reader;
    END IF;
END
$$;
