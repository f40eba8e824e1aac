-- How clean the tables are that change with every claim.
-- Out: a row for each: how many rows it has and how many dead ones, whether autovacuum runs and looks after it. Of one that
--      is partitioned, over all partitions, and cleaned when that one was that has the most dead rows.
SELECT c.relname::text AS name, sum(s.n_live_tup)::int8 AS live, sum(s.n_dead_tup)::int8 AS dead,
       (array_agg(extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8
                  ORDER BY s.n_dead_tup DESC))[1] AS cleaned_s_ago,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS runs,
       bool_and(coalesce((SELECT o.option_value::bool FROM pg_options_to_table(p.reloptions) o
                          WHERE o.option_name = 'autovacuum_enabled'), true)) AS enabled
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_inherits i ON i.inhparent = c.oid
JOIN pg_catalog.pg_class p ON p.oid = coalesce(i.inhrelid, c.oid)
JOIN pg_catalog.pg_stat_user_tables s ON s.relid = p.oid
WHERE c.relnamespace = to_regnamespace('caspen_sync') AND c.relkind IN ('r', 'p')
  AND c.relname IN ('outbox', 'queue', 'rate_slot', 'arrival')
GROUP BY c.relname
ORDER BY dead DESC
