-- The API did better: what failed, or was rejected, before that is no run-up any more.
-- In, as columns of equal length: $1 account text[], $2 kind text[].
-- An account that is paused for it keeps it: reinstate.sql has still to bring back what it cost. So does a change that was
-- given up before anything better was heard, see given_up.sql.
DELETE FROM caspen_sync.run_up u
USING unnest($1::text[], $2::text[]) AS w (account, kind), caspen_sync.account a
WHERE u.account = w.account AND u.kind = w.kind
  AND a.account = w.account AND a.pause_kind IS DISTINCT FROM w.kind
  AND NOT EXISTS (SELECT FROM caspen_sync.outbox o
                  WHERE u.kind = 'down' AND o.account = u.account AND o.id = ANY (u.change_ids)
                    AND o.state = 'parked' AND o.attempts <= u.charged)
