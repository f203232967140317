"""The running bus: connections, and what writes to them."""
