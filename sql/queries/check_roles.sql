-- Which of these roles there are.
-- In:  $1 role text[].
-- Out: a row for each that there is.
SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE rolname = ANY ($1::text[])
