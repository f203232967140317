"""Adapters: each serves endpoints on one kind of server."""
