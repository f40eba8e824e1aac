-- What keeps dead rows from being cleaned away: open transactions, prepared ones and replication slots.
-- Out: a row for each: what it is, its number or name, whose it is, its age in transactions, and in seconds. The last is
--      null where it is not known: for slots, for standbys, and for sessions of others without pg_read_all_stats.
SELECT 'session' AS kind, a.pid::text AS name, a.usename::text AS owner,
       greatest(age(a.backend_xmin), age(a.backend_xid))::int8 AS xids,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s
FROM pg_catalog.pg_stat_activity a
LEFT JOIN pg_catalog.pg_database d ON d.oid = a.datid
WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
  AND coalesce(d.datname = current_database(), true)
  AND a.usesysid IS NOT NULL -- no autovacuum worker: it takes care of itself
UNION ALL
SELECT 'prepared transaction', p.gid, p.owner::text, age(p.transaction)::int8,
       extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = current_database()
UNION ALL
SELECT 'replication slot', s.slot_name::text, NULL, age(s.xmin)::int8, NULL
FROM pg_catalog.pg_replication_slots s
WHERE s.xmin IS NOT NULL
