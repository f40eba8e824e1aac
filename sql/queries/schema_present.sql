-- Whether the table of migrations is there: a statement that names a missing table would fail instead of telling.
-- Out: one row.
SELECT to_regclass('caspen_sync.migration') IS NOT NULL AS present
