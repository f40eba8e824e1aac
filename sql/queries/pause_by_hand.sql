-- Pauses an account until a person ends that; see pause.sql.
-- In:  $1 account text, $2 who text, $3 why text.
-- Out: the account, if there is one.
WITH paused AS (
    UPDATE caspen_sync.account a
    SET pause_kind = 'manual', paused_until = 'infinity', paused_at = clock_timestamp(), pauses = 0, probe_until = NULL,
        pause_reason = concat_ws(': ', $2::text, $3::text)
    WHERE a.account = $1
    RETURNING a.account
), written_down AS (
    INSERT INTO caspen_sync.intervention (account, action, who, reason)
    SELECT account, 'pause', $2::text, $3::text FROM paused
)
SELECT account FROM paused
