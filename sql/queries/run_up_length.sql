-- How long the run-ups of accounts are. Runs after run_up, in the same transaction.
-- In:  $1 accounts text[].
-- Out: a row for each account and kind: how many appointments, one of the reasons, and whether the account is paused for
--      it already.
SELECT u.account, u.kind, count(*)::int AS appointments, max(u.reason) AS reason,
       bool_or(a.pause_kind IS NOT DISTINCT FROM u.kind) AS paused
FROM caspen_sync.run_up u
JOIN caspen_sync.account a USING (account)
WHERE u.account = ANY ($1::text[])
GROUP BY u.account, u.kind
