"""``wsbus bench``: servers to measure, and the load to measure them with; Linux only.

``wsbus.bench.load`` is of use for measuring other servers, too; nothing here is imported by a bus.
"""
