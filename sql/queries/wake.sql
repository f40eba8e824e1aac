-- Wakes the workers, as a commit to the outbox does.
SELECT pg_notify('caspen_sync', '')
