-- Makes the appointments due that have pending changes of which nothing else knows. `check` prints it, on one line and
-- without these comments, as the mend of what check_woken finds; a person runs it, as the worker's login.
--
-- Workers go on meanwhile: an appointment that is leased, resting or backing off keeps its time, and `again` has it due
-- once more after its claim. Rows of the queue are locked in key order, as everywhere. It may be run twice.
INSERT INTO caspen_sync.queue AS q (account, appointment_id, lane, due_at, newest_id)
SELECT o.account, o.appointment_id, max(o.lane), now(), max(o.id)
FROM caspen_sync.outbox o
LEFT JOIN caspen_sync.queue k USING (account, appointment_id)
WHERE o.state = 'pending' AND (k.account IS NULL OR k.due_at = 'infinity' OR o.id > k.newest_id)
GROUP BY o.account, o.appointment_id
ORDER BY o.account, o.appointment_id
ON CONFLICT (account, appointment_id) DO UPDATE
SET newest_id = greatest(q.newest_id, excluded.newest_id), again = q.again + 1,
    lane = CASE WHEN q.due_at = 'infinity' THEN excluded.lane ELSE greatest(q.lane, excluded.lane) END,
    due_at = CASE WHEN q.due_at = 'infinity' THEN excluded.due_at ELSE q.due_at END
