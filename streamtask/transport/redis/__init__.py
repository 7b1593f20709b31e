"""The Redis engine, for Redis 6.2 or newer and Valkey. No other package knows the Redis client."""
