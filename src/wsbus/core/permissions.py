"""Identities and grants: the subject of a connection, and its permissions.

Grants are patterns. To subscribe to a pattern, one grant must *cover* it, so that a client cannot
receive what was not granted; to publish or to call a command, one grant must match the name. A
deny wins over every grant. A deny narrower than a pattern leaves the subscription in force and
removes single publications at delivery (:meth:`Grants.may_receive`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

import msgspec

from .channels import Channel
from .errors import InvalidChannel, UsageError
from .patterns import Pattern, parse_pattern

__all__ = ["Grants", "Identity", "is_subject"]


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """The permissions of an identity; by default none. Make them with :meth:`of`."""

    subscribe: tuple[Pattern, ...] = ()
    publish: tuple[Pattern, ...] = ()
    command: tuple[Pattern, ...] = ()
    """Patterns over names of actions, such as ``grid.*`` for ``grid.start``."""
    history: tuple[Pattern, ...] = ()
    """Patterns over channels whose history may be read by a request. What a subscription gets of
    the past needs no grant but that to subscribe."""
    presence: tuple[Pattern, ...] = ()
    """Patterns over channels about which the client may ask which connections are there."""
    cancel: tuple[Pattern, ...] = ()
    """Patterns over channels whose streams the client may ask to cancel."""
    deny_subscribe: tuple[Pattern, ...] = ()
    """It denies reading history and presence, and cancelling, too."""
    deny_publish: tuple[Pattern, ...] = ()
    deny_command: tuple[Pattern, ...] = ()
    admin: bool = False
    """Grants every subscription that is not denied, also to ``*``; it grants no publishing and no
    commands."""

    def __post_init__(self) -> None:
        """Check the types: texts in place of patterns would silently grant nothing.

        Raises:
            UsageError: A field has another type.
        """
        for name in self.__struct_fields__[:-1]:
            patterns = getattr(self, name)
            if type(patterns) is not tuple or not all(type(p) is Pattern for p in patterns):
                raise UsageError(f'{name} is not made of patterns: use Grants.of({name}=["a.*"])')
        if type(self.admin) is not bool:
            raise UsageError("admin is True or False")

    @classmethod
    def of(
        cls,
        *,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        command: Iterable[str] = (),
        history: Iterable[str] = (),
        presence: Iterable[str] = (),
        cancel: Iterable[str] = (),
        deny_subscribe: Iterable[str] = (),
        deny_publish: Iterable[str] = (),
        deny_command: Iterable[str] = (),
        admin: bool = False,
    ) -> Grants:
        """Make grants from the texts of patterns.

        Raises:
            InvalidChannel: A pattern is invalid, or a single text is given in place of a list.
        """
        return cls(
            subscribe=_parse_all(subscribe),
            publish=_parse_all(publish),
            command=_parse_all(command),
            history=_parse_all(history),
            presence=_parse_all(presence),
            cancel=_parse_all(cancel),
            deny_subscribe=_parse_all(deny_subscribe),
            deny_publish=_parse_all(deny_publish),
            deny_command=_parse_all(deny_command),
            admin=admin,
        )

    @classmethod
    def open(cls) -> Grants:
        """Grant every subscription, every command, all history and presence; nothing else.

        It is for endpoints without an authenticator.
        """
        return cls.of(command=("*",), history=("*",), presence=("*",), admin=True)

    def may_subscribe(self, pattern: Pattern) -> bool:
        """Tell whether a subscription to ``pattern`` is granted.

        ``*`` itself needs :attr:`admin`, even where ``*`` is granted: that grant covers every
        other pattern.
        """
        if any(deny.covers(pattern) for deny in self.deny_subscribe):
            return False
        if self.admin:
            return True
        if pattern.is_everything:
            return False
        return any(grant.covers(pattern) for grant in self.subscribe)

    def may_receive(self, channel: Channel) -> bool:
        """Tell whether publications on ``channel`` may be delivered: no deny matches it."""
        return not _any_matches(self.deny_subscribe, channel)

    def may_publish(self, channel: str) -> bool:
        """Tell whether publishing on ``channel`` is granted, and not denied."""
        return _any_matches(self.publish, channel) and not _any_matches(self.deny_publish, channel)

    def may_read(self, channel: str) -> bool:
        """Tell whether reading the history of ``channel`` is granted, and not denied."""
        return _any_matches(self.history, channel) and not _any_matches(
            self.deny_subscribe, channel
        )

    def may_look(self, channel: str) -> bool:
        """Tell whether asking which connections are on ``channel`` is granted, and not denied."""
        return _any_matches(self.presence, channel) and not _any_matches(
            self.deny_subscribe, channel
        )

    def may_cancel(self, channel: str) -> bool:
        """Tell whether asking to cancel a stream on ``channel`` is granted, and not denied."""
        return _any_matches(self.cancel, channel) and not _any_matches(self.deny_subscribe, channel)

    def may_command(self, action: str) -> bool:
        """Tell whether the command is granted, and not denied.

        Args:
            action: Any text; it need not be the name of a command.
        """
        denies = self.deny_command
        return _any_matches(self.command, action) and not (denies and _any_matches(denies, action))


@dataclass(frozen=True, slots=True)
class Identity:
    """A client, as an authenticator identified it.

    Raises:
        UsageError: A field has another type.
    """

    subject: str
    """The client's name; several connections may share one."""
    grants: Grants
    expires_at: float | None = None
    """When it ends, in seconds since the epoch; None: never."""
    claims: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    """Other data of the token; ``repr`` omits them, since they may be private."""

    def __post_init__(self) -> None:
        """Check the fields, and replace an infinite ``expires_at`` by None."""
        if not is_subject(self.subject):
            raise UsageError(
                "the subject of an identity is a text in UTF-8, such as a name or str(id)"
            )
        if not isinstance(self.grants, Grants):
            raise UsageError("the grants of an identity are Grants: make them with Grants.of(…)")
        if not isinstance(self.claims, Mapping):
            raise UsageError("the claims of an identity are a mapping")
        expires: object = self.expires_at
        if expires is None:
            return
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            raise UsageError(
                "expires_at is a number, seconds since the epoch, such as datetime.timestamp()"
            )
        if expires == inf:
            object.__setattr__(self, "expires_at", None)
        elif not -_LAST_SECOND < expires < _LAST_SECOND:  # NaN is refused, too.
            raise UsageError("expires_at is a finite number of seconds since the epoch, or None")


_LAST_SECOND: Final = 2.0**1000
"""Larger times cannot be calculated with."""


def is_subject(text: object) -> bool:
    """Tell whether a text can be a subject: it is not empty, and UTF-8 can encode it."""
    if not isinstance(text, str) or not text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _any_matches(patterns: tuple[Pattern, ...], name: str) -> bool:
    for pattern in patterns:  # noqa: SIM110  # any() costs 0.5 µs more a command
        if pattern.matches(name):
            return True
    return False


def _parse_all(texts: Iterable[str]) -> tuple[Pattern, ...]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InvalidChannel('patterns are given as a list, such as ["a.*"]', texts)
    return tuple(map(parse_pattern, texts))
