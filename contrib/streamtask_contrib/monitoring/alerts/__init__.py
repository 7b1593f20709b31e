"""Who is told of anomalies: each sink is a router with a consumer group of its own, so that none delays another."""
