"""Where configurations come from: a folder, hashes of a Redis server, pages."""
