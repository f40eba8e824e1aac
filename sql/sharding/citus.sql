-- Distributes each table that has an account over the nodes of a Citus cluster, by the account, so that all rows of an
-- account stand on one node. On the coordinator, as the schema's owner, right after `migrate` and before anything is written:
--     psql -v ON_ERROR_STOP=1 -f citus.sql
--
-- THE WORKER DOES NOT RUN ON THIS. It lays the tables out, and was never run on a Citus; our tests run it on a Postgres with
-- a stand-in for create_distributed_table. For more machines today, give groups of accounts a Postgres each: see README.md,
-- "More machines". What Citus refuses, by its manual (SQL Support and Workarounds) and its planner
-- (multi_router_planner.c, as of version 13):
--   * FOR UPDATE and WITH … UPDATE, unless one shard is concerned, which has to be said of every table that is read by
--     `account = $1`. Our statements take arrays of accounts, so that one claim serves a thousand of them. That an array
--     has one element does not help: only equality with a constant or a parameter chooses a shard.
--   * functions that are VOLATILE anywhere in an UPDATE or DELETE, for one shard, too: clock_timestamp(), by which leases
--     and slots are set, and gen_random_uuid(), by which claims are fenced; and any that are not IMMUTABLE in a CASE, in
--     RETURNING and in ON CONFLICT DO UPDATE.
--   * INSERT in a WITH, for one shard, too. With that, settle, take_in and a dozen more write all that belongs together.
-- Beside that, a counter is another one on each node, with the node's number in its upper bits: if an account moves to a
-- node of a lower number, its next changes get lower ids than those before, and ids are the order of changes. So shards
-- must not be moved (citus_move_shard_placement, the rebalancer).

SET citus.enable_unsafe_triggers = on; -- and on every node: ALTER SYSTEM SET …, since they fire there

-- A trigger fires where the shard is, and may write there and nowhere else. For each row Citus can tell that the arrival
-- belongs to the same shard; for a statement's rows it cannot.
CREATE OR REPLACE FUNCTION caspen_sync.outbox_arrival() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state = 'pending' THEN
        INSERT INTO caspen_sync.arrival (account, lane, change_id, appointment_id)
        VALUES (NEW.account, NEW.lane, NEW.id, NEW.appointment_id);
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER outbox_arrival ON caspen_sync.outbox;
CREATE TRIGGER outbox_arrival AFTER INSERT ON caspen_sync.outbox
    FOR EACH ROW EXECUTE FUNCTION caspen_sync.outbox_arrival();

-- It would notify on the node, where no worker listens: changes are found by polling.
DROP TRIGGER outbox_notify ON caspen_sync.outbox;

-- The table of migrations has no account and stays where it is, on the coordinator.
DO $$
DECLARE
    distributed text;
BEGIN
    FOR distributed IN
        SELECT format('caspen_sync.%I', c.relname)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account'
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p')
        ORDER BY c.relname <> 'account', c.relname
    LOOP
        PERFORM create_distributed_table(
            distributed, 'account',
            colocate_with => CASE WHEN distributed = 'caspen_sync.account' THEN 'none' ELSE 'caspen_sync.account' END);
    END LOOP;
END
$$;
