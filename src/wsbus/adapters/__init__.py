"""Adapters: each lets one kind of server carry a bus. They do not know each other."""
