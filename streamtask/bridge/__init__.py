"""From Celery: calls that stand in a Celery queue become calls of streamtask's tasks.

`messages` reads Celery's wire, `sources` takes from its broker and gives back, `bridge` is what runs. Celery itself is
not needed: its wire is kombu's.
"""
