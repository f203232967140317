"""``wsbus bench``: servers to measure, and the load for them. Linux only.

``wsbus.bench.load`` also measures other servers. A bus imports nothing of this package.
"""
