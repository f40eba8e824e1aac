-- Remembers that a rejection is the changes' own fault: it met an appointment again after the API had accepted another
-- one. For an hour, see run_up.sql, it pauses nobody.
-- In, as columns of equal length: $1 account text[], $2 reason text[].
UPDATE caspen_sync.account a
SET known_reason = k.reason, known_at = clock_timestamp()
FROM unnest($1::text[], $2::text[]) AS k (account, reason)
WHERE a.account = k.account
