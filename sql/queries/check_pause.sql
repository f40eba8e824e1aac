-- Which accounts are paused.
-- In:  $1 accounts text[].
-- Out: a row for each that a worker has registered: the kind of its pause and the reason, null when it is not paused.
SELECT a.account, pause.kind, pause.reason
FROM caspen_sync.account a
LEFT JOIN LATERAL (
    SELECT a.pause_kind AS kind, a.pause_reason AS reason
    WHERE a.pause_kind <> 'throttled' OR a.paused_until > now()
) AS pause ON true
WHERE a.account = ANY ($1::text[])
ORDER BY a.account
