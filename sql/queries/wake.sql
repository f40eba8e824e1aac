-- Wakes the workers, as a commit to the outbox does.
-- In:  $1 account text: the one in which something is to be done.
SELECT pg_notify('caspen_sync', CASE WHEN octet_length($1) < 8000 THEN $1 ELSE '' END)
