"""Running: one worker process and its duties, the supervisor above it, and the child processes below it."""
