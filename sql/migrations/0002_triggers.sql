-- The triggers on the outbox. They run in the writer's transaction with the rights of the schema's owner, so that a
-- writer needs nothing but INSERT on the outbox.

-- Gives a change its id, under a lock on its appointment that lasts until the writer's transaction ends. Ids drawn
-- before the lock could commit against their order, and the older of two changes would win.
-- The conflict clause locks the row and, its condition being false, writes no new version of it (Postgres manual,
-- INSERT, "ON CONFLICT": "all rows will be locked when the ON CONFLICT DO UPDATE action is taken").
CREATE FUNCTION caspen_sync.outbox_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO caspen_sync.appointment_lock AS held (account, appointment_id)
    VALUES (NEW.account, NEW.appointment_id)
    ON CONFLICT (account, appointment_id) DO UPDATE SET account = excluded.account WHERE false;
    NEW.id := nextval('caspen_sync.outbox_id_seq');
    RETURN NEW;
END
$$;

CREATE TRIGGER outbox_id BEFORE INSERT ON caspen_sync.outbox
    FOR EACH ROW EXECUTE FUNCTION caspen_sync.outbox_id();

CREATE FUNCTION caspen_sync.outbox_arrival() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO caspen_sync.arrival (account, lane, change_id, appointment_id)
    SELECT account, lane, id, appointment_id FROM written WHERE state = 'pending';
    RETURN NULL;
END
$$;

CREATE TRIGGER outbox_arrival AFTER INSERT ON caspen_sync.outbox
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION caspen_sync.outbox_arrival();

-- Wakes the workers, once for each transaction: equal notifications of one transaction are sent once.
-- NOTIFY takes a database-wide lock at commit. Where commits are too many for that, switch it off, for a database, a
-- role or a transaction; the workers then find changes by polling:
--     ALTER DATABASE clinic SET caspen_sync.notify = 'off';
CREATE FUNCTION caspen_sync.outbox_notify() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(current_setting('caspen_sync.notify', true), '') <> 'off' THEN
        PERFORM pg_notify('caspen_sync', '');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER outbox_notify AFTER INSERT ON caspen_sync.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION caspen_sync.outbox_notify();

-- Trigger functions need no EXECUTE right of the one who fires them, and nobody has a reason to call them.
REVOKE ALL ON FUNCTION caspen_sync.outbox_id(), caspen_sync.outbox_arrival(), caspen_sync.outbox_notify() FROM PUBLIC;
