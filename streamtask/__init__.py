"""streamtask."""
