-- Which backfills of an account are done, or given up, for longer than the retention, going by when they were loaded and by
-- when their last change was finished: from now on their lines are no longer known. Whoever should be reading one at last is stopped by the new token.
-- In:  $1 account text, $2 retention float8 (s).
-- Out: a row for each, those of earlier times included whose lines are not all deleted yet.
-- Why accounts are compared with an array of one: see claim.sql.
UPDATE caspen_sync.backfill b
SET token = gen_random_uuid(), forgotten_at = coalesce(b.forgotten_at, clock_timestamp())
WHERE b.account = $1
  AND (b.loaded_nth >= b.accepted_nth OR b.cancelled_at IS NOT NULL)
  AND greatest(b.touched_at, b.loaded_at, b.cancelled_at) < clock_timestamp() - make_interval(secs => $2)
  AND NOT EXISTS (
      SELECT FROM caspen_sync.outbox o
      WHERE o.account = b.account AND o.state = 'pending' AND o.lane = 'backfill' AND o.source = b.name
  )
  AND NOT EXISTS (
      SELECT FROM caspen_sync.outbox o
      WHERE o.account = b.account AND o.state = 'parked' AND o.lane = 'backfill' AND o.source = b.name
  )
  AND NOT EXISTS (
      SELECT FROM caspen_sync.outbox o
      WHERE o.account = b.account AND o.id = b.last_id AND o.finished_at >= clock_timestamp() - make_interval(secs => $2)
  )
  AND (b.forgotten_at IS NULL
       OR EXISTS (SELECT FROM caspen_sync.backfill_line l WHERE l.account = ANY (ARRAY[b.account]) AND l.name = b.name)
       OR EXISTS (SELECT FROM caspen_sync.backfill_left_out l WHERE l.account = ANY (ARRAY[b.account]) AND l.name = b.name))
RETURNING b.name
