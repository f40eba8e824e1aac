-- For the rest of the transaction, which compares millions of lines with millions: no nested loops. A planner that has not
-- seen the table since it was empty would choose one.
-- Out: nothing of interest.
SELECT set_config('enable_nestloop', 'off', true)
