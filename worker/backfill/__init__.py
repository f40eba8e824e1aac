"""Backfills: many changes out of a file or a query, in the lane that leaves room for today's.

source ─▶ inspect ─▶ stage ─▶ accept ─▶ load ─▶ wait
(lines)   (valid?)   (COPY)   (all or    (into the   (the engine, until
                               none)      outbox)     all of it is done)
"""
