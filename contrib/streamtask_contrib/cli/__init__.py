"""Commands that the package adds to `streamtask`."""
