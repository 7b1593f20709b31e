"""Monitoring: what is usual of services and groups, what is not, and who is told.

The board (`monitoring.board`) reads records only, and needs no extra.
"""
