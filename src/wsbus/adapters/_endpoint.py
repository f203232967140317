"""The argument of adapters: an endpoint, or a bus that stands for its default endpoint."""

from __future__ import annotations

from ..bus import Bus
from ..core.errors import UsageError
from ..endpoint import Endpoint

__all__ = ["endpoint_of"]


def endpoint_of(endpoint: Bus | Endpoint) -> Endpoint:
    """Return the endpoint, or the default one of a bus.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(endpoint, Endpoint):
        return endpoint
    if isinstance(endpoint, Bus):
        return endpoint.default_endpoint
    raise UsageError(f"a bus, or bus.endpoint(…), is expected here, not {type(endpoint).__name__}")
