-- Which fields of appointments changes newer than a backfill's data have set.
-- In, as columns of equal length, each appointment once: $1 account text[], $2 appointment_id text[].
--     $3 how old the data is timestamptz.
-- Out: a row for each appointment that has any: its place in the columns, and the fields.
SELECT asked.nth, n.fields
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (account, appointment_id, nth)
CROSS JOIN LATERAL (
    SELECT array_agg(n.field) AS fields
    FROM caspen_sync.newer_fields(asked.account, asked.appointment_id, $3) AS n
) AS n
WHERE n.fields IS NOT NULL
