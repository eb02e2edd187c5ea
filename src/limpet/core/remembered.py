# SPDX-License-Identifier: Apache-2.0
"""Remembered: a map that forgets: each entry after the same time, and the oldest when it is full.

Pure: time comes in as `now`, which never goes back. What is forgotten is handed out, since
somebody else may have to forget it as well.
"""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """At most `most` entries, each for `life_s` seconds."""

    def __init__(self, most: int, life_s: float) -> None:
        self._most, self._life = most, life_s
        self._entries: dict[Key, tuple[float, Value]] = {}  # in the order of their ends

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, value: Value, now: float) -> None:
        """Remember from now on; what was known of the key is replaced."""
        self._entries.pop(key, None)
        self._entries[key] = now + self._life, value

    def get(self, key: Key, now: float) -> Value | None:
        """None if it is not known, or not any more."""
        found = self._entries.get(key)
        return found[1] if found is not None and found[0] > now else None

    def pop(self, key: Key) -> None:
        """Forget; fine if it is not known."""
        self._entries.pop(key, None)

    def forget(self, now: float, most: int) -> list[Key]:
        """Keys of what is over, and of the oldest that are too many: gone now; at most so many."""
        gone: list[Key] = []
        for key, (end, _) in self._entries.items():
            if len(gone) == most or (end > now and len(self._entries) - len(gone) <= self._most):
                break
            gone.append(key)
        for key in gone:
            del self._entries[key]
        return gone
