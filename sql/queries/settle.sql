-- Writes back what became of a batch of claims: the synced state, the outbox rows, the attempts and the cooling slots,
-- in one statement and so in one transaction.
-- In, as columns of equal length, or of none where all of a column is null, which unnest fills up again:
--   claims    $1 account text[], $2 appointment_id text[], $3 token uuid[], $4 newest id dealt with bigint[],
--             $5 due again in float8[] (s; null: when there is more to send), $6 failures int[], $7 part_size int[],
--             $8 turned away with its account boolean[], $9 unsure ids text[] (each an array literal)
--   changes   $10 which claim int[] (from 1), $11 id bigint[], $12 new state text[] (null: stays pending),
--             $13 requests to charge int[], $14 last_error text[], $15 what the API said jsonb[]
--   answers   $16 which claim int[], $17 the typed fields jsonb[], $18 the whole answer jsonb[], $19 last_change_id bigint[],
--             $20 which change set each field jsonb[]
--   attempts  $21 account text[], $22 appointment_id text[], $23 change ids text[] (each an array literal),
--             $24 started so long ago float8[] (s), $25 duration float8[] (ms), $26 http_status smallint[],
--             $27 outcome text[], $28 error text[], $29 worker text
--   slots     $30 account text[], $31 slot int[], $32 free_at as taken timestamptz[], $33 free again in float8[] (s),
--             $34 answered 429 boolean[]: held back from now on, see hold_back.sql
-- Out: the numbers of the claims that were still held, whether anything has failed or been rejected in a row in the
-- claim's account, and whether its appointment is due again at once. A number that is missing has lost its lease, and of it nothing is written but the attempt, which is
-- a fact, and the slot, which has a fence of its own.
--
-- Why accounts are compared with an array of one: see claim.sql.
--
-- The fence: a claim counts only while its token is the row's newest and its lease has not run out.
WITH claim AS (
    SELECT account, appointment_id, token, upto_id, due_in_s, failures, part_size, turned_away, unsure_ids, nth::int
    FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::float8[], $6::int[], $7::int[], $8::boolean[],
                $9::text[])
        WITH ORDINALITY AS c (account, appointment_id, token, upto_id, due_in_s, failures, part_size, turned_away,
                              unsure_ids, nth)
), tried AS MATERIALIZED (
    -- Row by row, in the order of keys, as take_in locks them. Whoever claimed it: a lock that is waited for shows the
    -- newest version, and so what a commit has written whose answer got lost, while this statement's snapshot may not.
    SELECT c.account, c.appointment_id, c.token, c.upto_id, c.due_in_s, c.failures, c.part_size, c.turned_away,
           c.unsure_ids, c.nth, q.newest_token, q.leased_until
    FROM (SELECT account, appointment_id, token, upto_id, due_in_s, failures, part_size, turned_away, unsure_ids, nth
          FROM claim ORDER BY account COLLATE "C", appointment_id COLLATE "C") AS c
    LEFT JOIN LATERAL (
        SELECT q.token AS newest_token, q.leased_until FROM caspen_sync.queue q
        WHERE q.account = c.account AND q.appointment_id = c.appointment_id
        LIMIT 1
        FOR UPDATE
    ) AS q ON true
), judged AS MATERIALIZED (
    -- Sorted once more, and so all locked before the first is judged: a lease runs out while a lock is waited for.
    -- Known: the commit went through, but its answer got lost, and the batch is here again. Nothing of it is written twice.
    SELECT t.account, t.appointment_id, t.token, t.upto_id, t.due_in_s, t.failures, t.part_size, t.turned_away,
           t.unsure_ids, t.nth,
           coalesce(t.newest_token = t.token AND t.leased_until > clock_timestamp(), false) AS held,
           coalesce(t.newest_token = md5(t.token::text)::uuid, false) AS known
    FROM (SELECT account, appointment_id, token, upto_id, due_in_s, failures, part_size, turned_away, unsure_ids, nth,
                 newest_token, leased_until
          FROM tried ORDER BY nth OFFSET 0) AS t
), kept AS MATERIALIZED (
    -- One row, with which claim is which. Joins over the batch would be planned for a handful, and compare each with each.
    SELECT array_agg(held ORDER BY nth) AS held, array_agg(account ORDER BY nth) AS accounts,
           array_agg(appointment_id ORDER BY nth) AS appointment_ids
    FROM judged
), released AS (
    UPDATE caspen_sync.queue q
    SET token = md5(h.token::text)::uuid, -- another one, see claim.sql; and one by which a repeated settle is known
        leased_until = NULL,
        worker = NULL,
        failures = h.failures,
        -- Counted off the changes of the claim. Where older ones came back meanwhile, it would cut what went out together.
        part_size = CASE WHEN q.again = 0 THEN h.part_size END,
        unsure_ids = h.unsure_ids::bigint[],
        turned_away_at = CASE WHEN h.turned_away THEN clock_timestamp()
                              WHEN h.due_in_s IS NOT NULL THEN q.turned_away_at END,
        -- What was turned away with its account goes behind everybody else as a probe, and comes first when the account is
        -- welcome again: probes take what came last, claims what came first.
        due_at = CASE WHEN h.turned_away THEN clock_timestamp() - interval '1 day'
                      WHEN h.due_in_s IS NOT NULL THEN clock_timestamp() + make_interval(secs => h.due_in_s)
                      WHEN q.newest_id > h.upto_id OR q.again > 0 THEN clock_timestamp()
                      ELSE 'infinity' END
    FROM judged h
    WHERE h.held AND q.account = ANY (ARRAY[h.account]) AND q.appointment_id = h.appointment_id
    RETURNING h.nth, h.account, q.due_at <= clock_timestamp() AS due
), verdict AS MATERIALIZED (
    SELECT k.accounts[v.nth] AS account, v.nth, v.id, v.state, v.charged, v.error, v.messages
    FROM unnest($10::int[], $11::bigint[], $12::text[], $13::int[], $14::text[], $15::jsonb[])
        AS v (nth, id, state, charged, error, messages)
    CROSS JOIN kept k
    WHERE k.held[v.nth]
), changed AS (
    -- Pending, said so that the index of pending changes does not offer itself: planned on an empty table, it would be
    -- read from end to end for ever after. The primary key finds each row by itself.
    UPDATE caspen_sync.outbox o
    SET state = coalesce(v.state, o.state),
        attempts = o.attempts + v.charged,
        last_error = v.error,
        finished_at = CASE WHEN v.state IS NOT NULL THEN clock_timestamp() END
    FROM verdict v
    WHERE o.account = ANY (ARRAY[v.account]) AND o.id = v.id AND o.state NOT IN ('synced', 'parked', 'discarded')
), explained AS (
    INSERT INTO caspen_sync.rejection AS r (account, change_id, at, messages)
    SELECT account, id, clock_timestamp(), messages FROM verdict WHERE messages IS NOT NULL
    ON CONFLICT (account, change_id) DO UPDATE SET at = excluded.at, messages = excluded.messages
), answered AS (
    INSERT INTO caspen_sync.appointment AS a (
        account, appointment_id, id, location_id, practitioner_id, service_id, client_id, client_package_id, case_id,
        starts_at, ends_at, duration, status, confirmed, confirmed_at, room_id, vehicle_id, resource_ids, note,
        cancellation_reason_id, cancellation_note, cancelled_at, created_at, resource, synced_at, last_change_id,
        set_by)
    SELECT
        k.accounts[r.nth], k.appointment_ids[r.nth], f.id, f.location_id, f.practitioner_id, f.service_id, f.client_id,
        f.client_package_id, f.case_id, f.starts_at, f.ends_at, f.duration, f.status, f.confirmed, f.confirmed_at,
        f.room_id, f.vehicle_id, f.resource_ids, f.note, f.cancellation_reason_id, f.cancellation_note,
        f.cancelled_at, f.created_at, r.resource, clock_timestamp(), r.last_change_id, r.set_by
    FROM unnest($16::int[], $17::jsonb[], $18::jsonb[], $19::bigint[], $20::jsonb[])
        AS r (nth, fields, resource, last_change_id, set_by)
    CROSS JOIN kept k
    CROSS JOIN LATERAL jsonb_to_record(r.fields) AS f (
        id text, location_id text, practitioner_id text, service_id text, client_id text, client_package_id text,
        case_id text, starts_at timestamptz, ends_at timestamptz, duration bigint, status text, confirmed boolean,
        confirmed_at timestamptz, room_id text, vehicle_id text, resource_ids text[], note text,
        cancellation_reason_id text, cancellation_note text, cancelled_at timestamptz, created_at timestamptz)
    WHERE k.held[r.nth]
    ON CONFLICT (account, appointment_id) DO UPDATE SET
        id = excluded.id, location_id = excluded.location_id, practitioner_id = excluded.practitioner_id,
        service_id = excluded.service_id, client_id = excluded.client_id,
        client_package_id = excluded.client_package_id, case_id = excluded.case_id, starts_at = excluded.starts_at,
        ends_at = excluded.ends_at, duration = excluded.duration, status = excluded.status,
        confirmed = excluded.confirmed, confirmed_at = excluded.confirmed_at, room_id = excluded.room_id,
        vehicle_id = excluded.vehicle_id, resource_ids = excluded.resource_ids, note = excluded.note,
        cancellation_reason_id = excluded.cancellation_reason_id, cancellation_note = excluded.cancellation_note,
        cancelled_at = excluded.cancelled_at, created_at = excluded.created_at, resource = excluded.resource,
        synced_at = excluded.synced_at, last_change_id = greatest(a.last_change_id, excluded.last_change_id),
        set_by = a.set_by || excluded.set_by -- what was sent is newer, field by field: see merge.py
), attempted AS (
    INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, http_status, outcome,
                                     error, worker)
    SELECT t.account, t.appointment_id, t.change_ids::bigint[], clock_timestamp() - make_interval(secs => t.age_s),
           t.duration_ms, t.http_status, t.outcome, t.error, $29
    FROM unnest($21::text[], $22::text[], $23::text[], $24::float8[], $25::float8[], $26::smallint[], $27::text[],
                $28::text[])
        AS t (account, appointment_id, change_ids, age_s, duration_ms, http_status, outcome, error)
    WHERE NOT EXISTS (SELECT FROM judged j
                      WHERE j.known AND j.account = t.account AND j.appointment_id = t.appointment_id)
), used AS MATERIALIZED (
    -- The slot is fenced by the very instant to which its taker set it: once somebody else took it, that has changed.
    SELECT s.account, s.slot, clock_timestamp() + make_interval(secs => s.rest_s) AS free_at, s.throttled
    FROM (
        SELECT account, slot, taken, rest_s, throttled
        FROM unnest($30::text[], $31::int[], $32::timestamptz[], $33::float8[], $34::boolean[])
            AS s (account, slot, taken, rest_s, throttled)
        ORDER BY account COLLATE "C", slot
    ) AS s
    CROSS JOIN LATERAL (
        SELECT FROM caspen_sync.rate_slot r
        WHERE r.account = s.account AND r.slot = s.slot AND r.free_at = s.taken
        LIMIT 1
        FOR UPDATE
    ) AS r
), cooling AS (
    UPDATE caspen_sync.rate_slot r
    SET free_at = u.free_at, held_until = CASE WHEN u.throttled THEN u.free_at END
    FROM used u
    WHERE r.account = ANY (ARRAY[u.account]) AND r.slot = u.slot
)
SELECT r.nth, EXISTS (SELECT FROM caspen_sync.run_up u WHERE u.account = r.account) AS run_up, r.due FROM released r
UNION ALL
SELECT nth, false, true FROM judged WHERE known
