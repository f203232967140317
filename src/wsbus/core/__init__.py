"""The pure core: no I/O, no clock, no randomness, no logging; msgspec is its only third party."""
