-- Ends whatever pause an account is in. Runs within a transaction.
-- In:  $1 account text, $2 who text, $3 why text.
-- Out: the account, if there is one, with the kind and reason of the pause that this ended (null: it was not paused).
WITH before AS MATERIALIZED (
    SELECT a.account, a.pause_kind, a.pause_reason FROM caspen_sync.account a WHERE a.account = $1 FOR UPDATE
), resumed AS (
    UPDATE caspen_sync.account a
    SET paused_until = NULL, paused_at = NULL, pause_kind = NULL, pause_reason = NULL, pauses = 0, probe_until = NULL
    FROM before b
    WHERE a.account = b.account
), written_down AS (
    INSERT INTO caspen_sync.intervention (account, action, who, reason)
    SELECT account, 'resume', $2, $3 FROM before WHERE pause_kind IS NOT NULL
)
SELECT account, pause_kind AS kind, pause_reason AS reason FROM before
