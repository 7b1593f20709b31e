"""Engines: what stores events and hands them out. `port.py` says what streamtask asks of one."""
