"""Measurements against other people's implementations of the same work: `python -m benchmarks.peers`."""
