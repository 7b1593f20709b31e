"""What a running streamtask tells about itself: log lines (`logs`) and metrics (`metrics`).

Telemetry watches; it never changes what happens to a delivery, it knows no transport and no handler, and every layer
may call it. Nothing is imported here: the command line writes text, and must not wait for Prometheus' client.
"""
