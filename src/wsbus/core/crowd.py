"""A set that never changes, of which a changed copy costs little however many are in it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, Final, Generic, TypeVar

__all__ = ["Crowd"]

M = TypeVar("M", bound=Hashable)

_PART: Final = 128
"""Members of a part when a crowd is divided. A copy of one takes about 1 µs, and so does one of the
tuple of the 80 parts that 10,000 members make."""
_STRETCH: Final = 4
"""How many times larger or smaller parts may become before the crowd is divided anew."""


class Crowd(Collection[M], Generic[M]):
    """Distinct members that never change, in parts: two crowds share the parts that are alike.

    It is one part, which keeps its order, until a large one is edited. Then each member stands in
    the part that its hash says, and the order is no particular one.

    Args:
        members: Those of a new crowd, in order.
    """

    __slots__ = ("_count", "_parts")

    def __init__(self, members: Iterable[M]) -> None:
        # Dicts, since they keep their order.
        self._parts: tuple[dict[M, None], ...] = (dict.fromkeys(members),)
        self._count = len(self._parts[0])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[M]:
        parts = self._parts
        return iter(parts[0]) if len(parts) == 1 else chain.from_iterable(parts)

    def __contains__(self, member: object) -> bool:
        parts = self._parts
        return member in parts[hash(member) % len(parts)]

    def among(self, members: AbstractSet[M]) -> set[M]:
        """Return those of ``members`` that belong to it."""
        if len(self._parts) == 1:
            return self._parts[0].keys() & members
        return {member for member in members if member in self}

    def edited(self, come: Collection[M], gone: Collection[M]) -> Crowd[M]:
        """Return it with some more members, that are not there, and some less, that are.

        Cost: a copy of the parts that change, and of the tuple of all parts.
        """
        count = self._count + len(come) - len(gone)
        parts = self._divided(count)
        changed: set[int] = set()
        for members, is_to_come in ((gone, False), (come, True)):
            for member in members:
                nth = hash(member) % len(parts)
                if nth not in changed:
                    changed.add(nth)
                    parts[nth] = parts[nth].copy()
                if is_to_come:
                    parts[nth][member] = None
                else:
                    del parts[nth][member]
        crowd: Crowd[Any] = Crowd.__new__(Crowd)
        crowd._parts, crowd._count = tuple(parts), count
        return crowd

    def _divided(self, count: int) -> list[dict[M, None]]:
        """Return the parts, in the right number for so many members."""
        parts = list(self._parts)
        fit = count / _PART / len(parts)
        if 1 / _STRETCH <= fit <= _STRETCH or (len(parts) == 1 and fit < 1):
            return parts
        # An odd number: hashes of objects are often multiples of 2.
        parts = [{} for _ in range(count // _PART | 1)]
        for member in self:
            parts[hash(member) % len(parts)][member] = None
        return parts
