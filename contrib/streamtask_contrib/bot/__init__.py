"""Bots in meetings, and the worker of the group `bot-orchestrator` that looks after their processes.

streamtask worker -A streamtask_contrib.bot:app
"""
