-- Locks an account's slots, in order, for fit_slots: what is just being taken or cooled is seen in its new state then.
-- In:  $1 account text.
SELECT slot FROM caspen_sync.rate_slot WHERE account = $1 ORDER BY account, slot FOR UPDATE
