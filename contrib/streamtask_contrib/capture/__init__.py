"""From samples to published chunks: where audio is cut, what is written down of it, how it gets to the workers.

Whoever takes audio in uses it: the API, a bot in a meeting.
"""
