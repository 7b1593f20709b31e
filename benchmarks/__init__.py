"""The benchmark: streamtask and its peers, side by side on one machine. `python -m benchmarks --help`."""
