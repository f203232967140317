"""Traces for OpenTelemetry: ``Bus(tracing=OpenTelemetry())``.

Needs the extra ``opentelemetry``, which is its API; the application chooses and sets up an SDK.
Attributes follow the semantic conventions ``rpc.*`` and ``messaging.*``. None of them has data of
a message or says whose client it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ._extras import missing_extra

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.opentelemetry", "opentelemetry", _exc) from None

from .core.choices import shown
from .core.errors import UsageError
from .core.events import Event
from .core.tracing import TracedWork

__all__ = ["OpenTelemetry", "links_to"]

_ROOT: Final = contexts.Context()
"""A context without a span: what begins in it begins a trace."""
_OTHER: Final = "_OTHER"
"""The conventions call a method so that the server does not have."""
_read: Final = TraceContextTextMapPropagator().extract


class OpenTelemetry:
    """Has a span for each command and each publication; for ``Bus(tracing=…)`` and emitters.

    A command has a *server* span, which is current while the command runs. It begins a trace, and
    links to the span that was current at the handshake, because a connection lasts; a command that
    came by HTTP is part of the request's trace. A publication has a *producer* span, a child of
    what is current where it is published; what a client publishes begins a trace. The context of
    that span goes with the publication to all nodes: see :func:`links_to` and :meth:`process`.

    Args:
        tracer_provider: Makes the tracer; None: the global one.
        channels: Whether spans name channels. They are many where they hold ids, and may say whose
            they are.

    Raises:
        UsageError: An argument is of the wrong type.
    """

    def __init__(
        self, tracer_provider: trace.TracerProvider | None = None, *, channels: bool = False
    ) -> None:
        if tracer_provider is not None and not isinstance(tracer_provider, trace.TracerProvider):
            raise UsageError(
                f"tracer_provider is a TracerProvider or None, not {shown(tracer_provider)}"
            )
        if not isinstance(channels, bool):  # A text, such as a pattern, would name them all.
            raise UsageError(f"channels is True or False, not {shown(channels)}")
        self._tracer: Final = trace.get_tracer("wsbus", tracer_provider=tracer_provider)
        self._names_channels: Final = channels

    def publication(self, channel: str, *, is_of_client: bool) -> TracedWork:
        """Begin the span of a publication; for wsbus itself."""
        context = _ROOT if is_of_client else None
        name, attributes = self._described("publish", "send", channel)
        kind = trace.SpanKind.PRODUCER
        return _SpanWork(self._tracer.start_span(name, context, kind=kind, attributes=attributes))

    def command(self, action: str | None, *, is_posted: bool) -> TracedWork:
        """Begin the span of a command, and make it current; for wsbus itself."""
        context, links = None, []
        if not is_posted:
            context = _ROOT
            current = trace.get_current_span().get_span_context()
            links = [trace.Link(current)] if current.is_valid else []
        name = action or _OTHER
        attributes = {"rpc.system.name": "wsbus", "rpc.method": name}
        span = self._tracer.start_span(
            name, context, kind=trace.SpanKind.SERVER, attributes=attributes, links=links
        )
        contexts.attach(trace.set_span_in_context(span))
        return _SpanWork(span, "rpc.response.status_code")

    @contextmanager
    def process(self, event: Event[Any]) -> Iterator[trace.Span]:
        """Have a *consumer* span for what is done with an event: ``with tracing.process(event):``.

        It is a child of the current span, if there is one, and links to the span that published
        the event. What the block raises is passed on; the span gets its class and not its text.

        Args:
            event: An event of :meth:`.Bus.subscribe`.
        """
        name, attributes = self._described("process", "process", event.channel)
        with self._tracer.start_as_current_span(
            name,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links_to(event),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as exc:
                _fail(span, type(exc).__qualname__)
                raise

    def _described(self, name: str, kind: str, channel: str) -> tuple[str, Mapping[str, str]]:
        """Return the name and the attributes of a span about a message."""
        attributes = {
            "messaging.system": "wsbus",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
        }
        if self._names_channels and channel:
            attributes["messaging.destination.name"] = channel
            name = f"{name} {channel}"
        return name, attributes


def links_to(event: Event[Any]) -> Sequence[trace.Link]:
    """Return a link to the span that published an event, for ``start_span(links=…)``.

    Args:
        event: An event of :meth:`.Bus.subscribe`, published by any process.

    Returns:
        One link; none if the event was not traced, or came through a client.
    """
    if event.trace_parent is None:
        return ()
    context = _read({"traceparent": event.trace_parent}, _ROOT)
    found = trace.get_current_span(context).get_span_context()
    return (trace.Link(found),) if found.is_valid else ()


class _SpanWork:
    """A span that wsbus ends."""

    __slots__ = ("_code", "_span")

    def __init__(self, span: trace.Span, code: str | None = None) -> None:
        self._span: Final = span
        self._code: Final = code

    @property
    def trace_parent(self) -> str | None:
        found = self._span.get_span_context()
        if not found.is_valid:
            return None
        trace_id, span_id = (
            trace.format_trace_id(found.trace_id),
            trace.format_span_id(found.span_id),
        )
        return f"00-{trace_id}-{span_id}-{found.trace_flags:02x}"

    def end(self, error: str | None = None) -> None:
        if error is not None:
            _fail(self._span, error)
            if self._code is not None:
                self._span.set_attribute(self._code, error)
        self._span.end()


def _fail(span: trace.Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(trace.StatusCode.ERROR)
