-- For the rest of this transaction: nothing is written, and nothing is waited for long.
SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', '4s', true),
       set_config('lock_timeout', '1s', true)
