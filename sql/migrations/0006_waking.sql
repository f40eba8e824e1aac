-- A commit tells the workers which accounts it has changes for, so that a process with a thousand accounts looks after
-- those only. The name of an account that is too long for a notification is left out, which means: any.
CREATE OR REPLACE FUNCTION caspen_sync.outbox_notify() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(current_setting('caspen_sync.notify', true), '') <> 'off' THEN
        PERFORM pg_notify('caspen_sync', CASE WHEN octet_length(w.account) < 8000 THEN w.account ELSE '' END)
        FROM (SELECT DISTINCT account FROM written) AS w;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER outbox_notify AFTER INSERT ON caspen_sync.outbox
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION caspen_sync.outbox_notify();
