-- How clean the tables are that change with every claim.
-- Out: a row for each: how many rows it has and how many dead ones, whether autovacuum runs and looks after it.
SELECT s.relname::text AS name, s.n_live_tup AS live, s.n_dead_tup AS dead,
       extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8 AS cleaned_s_ago,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS runs,
       coalesce((SELECT o.option_value::bool FROM pg_options_to_table(c.reloptions) o
                 WHERE o.option_name = 'autovacuum_enabled'), true) AS enabled
FROM pg_catalog.pg_stat_user_tables s
JOIN pg_catalog.pg_class c ON c.oid = s.relid
WHERE s.schemaname = 'caspen_sync' AND s.relname IN ('outbox', 'queue', 'rate_slot', 'arrival')
ORDER BY s.n_dead_tup DESC
