"""Publishing in a transaction of the user's own database: a table, and a relay that publishes what stands in it.

`alchemy` is for SQLAlchemy, `django` for Django; each is an extra. Nothing here is imported by the rest of streamtask,
and none of it has to do with `transport/redis/outbox.py`, which carries emits between the slots of a cluster.
"""
