"""Commands that this package adds to `streamtask`, each found by an entry point of the group `streamtask.commands`."""
