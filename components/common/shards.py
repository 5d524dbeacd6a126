"""Shards: equal parts of a cohort's patients, in their order, that tasks take side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"^([1-9][0-9]*)-of-([1-9][0-9]*)$")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts.

    Attributes:
        number: Which one, from 1.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"A shard is one of 1 to {self.count}; received {self.number}.")

    @classmethod
    def parse(cls, name: str) -> Shard:
        """Return the shard of a name such as ``2-of-8``.

        Args:
            name: As ``shard_names`` writes it.

        Returns:
            The shard.

        Raises:
            ValueError: It is no such name.
        """
        match = _NAME.match(name)
        if match is None:
            raise ValueError(f"A shard is named as in 2-of-8; received {name!r}.")
        return cls(int(match.group(1)), int(match.group(2)))

    def __str__(self) -> str:
        """Return the name, such as ``2-of-8``."""
        return f"{self.number}-of-{self.count}"

    def bounds(self, total: int) -> tuple[int, int]:
        """Return where the shard starts and stops; sizes of two shards differ by one at most.

        Args:
            total: Number of elements that the shards divide.

        Returns:
            First element, and the one after the last.
        """
        return total * (self.number - 1) // self.count, total * self.number // self.count


def shard_names(count: int) -> list[str]:
    """Return the names of all shards, in their order.

    Args:
        count: How many there are.

    Returns:
        Such as ``["1-of-2", "2-of-2"]``.
    """
    return [str(Shard(number, count)) for number in range(1, count + 1)]


def places_in_order(shards: list[Shard]) -> list[int]:
    """Return where each shard stands in a list, in the order of the shards.

    Args:
        shards: Shards in any order.

    Returns:
        Positions in the list.

    Raises:
        ValueError: They are not all shards of one division, each once.
    """
    places = sorted(range(len(shards)), key=lambda place: shards[place].number)
    if [shards[place] for place in places] != [Shard(number, len(shards)) for number in range(1, len(shards) + 1)]:
        raise ValueError(f"Every shard needs exactly one part; received {', '.join(map(str, shards)) or 'none'}.")
    return places
