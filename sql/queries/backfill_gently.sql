-- For the rest of the transaction: wakes nobody, and gives up rather than keep an application waiting. Whoever waits for us
-- looks for a deadlock after a second (deadlock_timeout) and would then be the one to be ended, so we wait for less.
-- Rows are looked up one by one: planned on an empty table, any other join would read all of it, for each step.
-- In:  $1 longest wait for a lock text, $2 longest time for a statement text.
-- Out: nothing of interest.
SELECT set_config('caspen_sync.notify', 'off', true), set_config('lock_timeout', $1, true),
       set_config('statement_timeout', $2, true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
