-- What was sent, and may have been done without anybody hearing of it: the newest change of each such request. When what came
-- since is refused, those changes go out again together: a half of them would set back what the other half has set. A claim
-- writes it before its request goes out, so that a worker that dies leaves it behind. Null: what became of all is known.
ALTER TABLE caspen_sync.queue ADD COLUMN unsure_ids bigint[];
