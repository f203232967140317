"""Whose subjects are the same: those of one authenticator."""

from __future__ import annotations

import logging
from typing import Final

from .auth import Authenticator

__all__ = ["Realms"]

logger: Final = logging.getLogger("wsbus.bus")


class Realms:
    """The authenticators of a bus, numbered from 1 on."""

    def __init__(self) -> None:
        self._authenticators: Final[list[Authenticator]] = []
        self._has_warned = False

    def of(self, authenticator: Authenticator | None) -> int:
        """Return the realm of an authenticator; 0: there is none."""
        if authenticator is None:
            return 0
        if authenticator not in self._authenticators:
            self._authenticators.append(authenticator)
        return self._authenticators.index(authenticator) + 1

    def default(self) -> int:
        """Return whose subjects a bare text means: those of the first authenticator."""
        if len(self._authenticators) > 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "subjects of several authenticators: a text without endpoint= means those of the "
                "first endpoint with an authenticator"
            )
        return 1 if self._authenticators else 0
