"""Patterns with wildcards far down, searched by bits.

A trie visits up to twice as many nodes for each further position that may be a wildcard: with the
worst patterns, of 16 segments each ``a`` or ``*``, it would visit 131,072. Here each pattern is a
bit, and a channel is matched with all patterns of a block at once: one AND per segment. The cost
depends on the number of patterns, and not on the places of their wildcards.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from .channels import MAX_SEGMENTS
from .patterns import Pattern

__all__ = ["Block", "DeepPatterns"]

M = TypeVar("M", bound=Hashable)

_BLOCK_SIZE: Final = 4096
"""Patterns of one block. Larger blocks need fewer steps, and more memory for each literal."""


class Block(Generic[M]):
    """Up to 4096 patterns; the bit of a removed pattern is not used again."""

    __slots__ = ("fits", "literal", "members", "patterns", "used", "wild")

    def __init__(self) -> None:
        self.patterns: dict[str, tuple[Pattern, int]] = {}
        """Patterns with their bits, by text."""
        self.used: int = 0
        """Number of bits in use, or used before."""
        self.members: dict[M, int] = {}
        """The bits of each member's patterns."""
        self.fits: list[int] = [0] * (MAX_SEGMENTS + 1)
        """By number of segments: patterns that match channels of that length."""
        self.wild: list[int] = [0] * MAX_SEGMENTS
        """By position: patterns that take any segment there."""
        self.literal: list[dict[str, int]] = [{} for _ in range(MAX_SEGMENTS)]
        """By position and segment: patterns that take this segment there."""

    def add(self, pattern: Pattern) -> int:
        """Add a pattern; return its bit."""
        bit = 1 << self.used
        self.used += 1
        self.patterns[pattern.text] = (pattern, bit)
        self._flip(pattern, bit)
        return bit

    def remove(self, text: str) -> None:
        """Remove a pattern without members."""
        self._flip(*self.patterns.pop(text))

    def search(self, segments: Sequence[str]) -> int:
        """Return the bits of the patterns that match."""
        bits = self.fits[len(segments)]
        for segment, wild, literal in zip(segments, self.wild, self.literal, strict=False):
            bits &= wild | literal.get(segment, 0)
            if not bits:
                break
        return bits

    def _flip(self, pattern: Pattern, bit: int) -> None:
        count = len(pattern.segments)
        for length in range(count, MAX_SEGMENTS + 1 if pattern.has_tail else count + 1):
            self.fits[length] ^= bit
        if pattern.has_tail:
            for position in range(count, MAX_SEGMENTS):
                self.wild[position] ^= bit
        for position, segment in enumerate(pattern.segments):
            if segment in {"*", "+"}:
                self.wild[position] ^= bit
                continue
            literal = self.literal[position]
            literal[segment] = literal.get(segment, 0) ^ bit
            if not literal[segment]:
                del literal[segment]


class DeepPatterns(Generic[M]):
    """Patterns and their members.

    Args:
        members: Returns the members of a pattern, by its text.
    """

    def __init__(self, members: Callable[[str], Iterable[M]]) -> None:
        self._members: Final = members
        self._places: Final[dict[str, Block[M]]] = {}
        self._blocks: list[Block[M]] = []

    def __len__(self) -> int:
        """Return the number of patterns."""
        return len(self._places)

    def add(self, pattern: Pattern, member: M) -> None:
        """Note an interest. Cost: O(segments) for a new pattern."""
        block = self._places.get(pattern.text)
        if block is None:
            if not self._blocks or self._blocks[-1].used == _BLOCK_SIZE:
                self._blocks.append(Block())
            block = self._places[pattern.text] = self._blocks[-1]
            block.add(pattern)
        block.members[member] = block.members.get(member, 0) | block.patterns[pattern.text][1]

    def discard(self, pattern: Pattern, member: M, *, is_last: bool) -> None:
        """Note that an interest has ended; ``is_last``: no other member has it."""
        block = self._places[pattern.text]
        left = block.members[member] & ~block.patterns[pattern.text][1]
        if left:
            block.members[member] = left
        else:
            del block.members[member]
        if is_last:
            del self._places[pattern.text]
            block.remove(pattern.text)
            if block.used == _BLOCK_SIZE and len(block.patterns) < _BLOCK_SIZE // 2:
                self._dissolve(block)

    def search(self, segments: Sequence[str]) -> list[tuple[Block[M], int]]:
        """Return the blocks with patterns that match, and the bits of these.

        Cost: O(patterns / 30), at most 16 steps for each 4,096 patterns.
        """
        found = [(block, block.search(segments)) for block in self._blocks]
        return [(block, bits) for block, bits in found if bits]

    def _dissolve(self, block: Block[M]) -> None:
        self._blocks.remove(block)
        for pattern, _ in block.patterns.values():
            del self._places[pattern.text]
            for member in self._members(pattern.text):
                self.add(pattern, member)
