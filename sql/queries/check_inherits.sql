-- Whether a login holds a role without inheriting what it may.
-- In:  $1 login text, $2 role text.
-- Out: one row; null when the role is not there.
SELECT (SELECT pg_has_role($1::name, r.oid, 'MEMBER') AND NOT pg_has_role($1::name, r.oid, 'USAGE')
        FROM pg_catalog.pg_roles r WHERE r.rolname = $2) AS held_only
