"""Commands that `streamtask` has where this package is installed; entry points of the group `streamtask.commands`."""
