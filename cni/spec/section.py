"""One JSON object of a configuration or a result, read with types.

Configurations are written by hand, by templates and by other programs; the reference reads them with
Go's decoder, so this reads what that reads: keys match without regard to case, `null` means "not
said". Where Go guesses, this refuses: two spellings of one key (Go lets the last win), text that can
be neither a file name nor a message to the kernel (NUL, lone surrogates). Every refusal is a CNIError
with code 7 that names the place, the key and the value. Behind a Section there is no raw JSON.

Numbers are whole numbers: 1.0, "1" and true are none, as in Go. The specification leaves all this
open (section 1, "Network configuration format").
"""

from __future__ import annotations

from cni.spec.errors import INVALID_CONFIG, CNIError, config_error, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final, Self

_LEAST: Final = -(1 << 63)
_MOST: Final = (1 << 63) - 1


class Section:
    """One JSON object; `where` says which, as in "bridge.ipam.ranges[0]", for messages."""

    __slots__ = ("_entries", "_twice", "where")

    def __init__(self, entries: Mapping[str, object], where: str) -> None:
        self.where = where
        self._entries: dict[str, tuple[str, object]] = {}
        self._twice: dict[str, str] = {}
        for key, value in entries.items():
            folded = key.lower()
            if folded in self._entries:
                # Not an error yet: in an object whose keys are somebody's names ("labels") case may matter.
                self._twice[folded] = key
            else:
                self._entries[folded] = key, value

    def __repr__(self) -> str:
        return f"Section({self.where}: {', '.join(spelling for spelling, _ in self._entries.values())})"

    @classmethod
    def of(cls, value: object, where: str) -> Self:
        """From what JSON gave; null is an empty object."""
        if value is None:
            return cls({}, where)
        if not isinstance(value, dict):
            raise CNIError(
                INVALID_CONFIG, f"{where} must be a JSON object, got {shown(value)}", f"write {where} as {{…}}"
            )
        return cls(value, where)

    @property
    def empty(self) -> bool:
        """Whether it has no keys at all."""
        return not self._entries

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.raw(key) is not None

    def raw(self, key: str) -> object | None:
        """The value as JSON gave it; None when absent or null."""
        folded = key.lower()
        found = self._entries.get(folded)
        if found is None:
            return None
        spelling, value = found
        if folded in self._twice:
            raise CNIError(
                INVALID_CONFIG,
                f"{self.where}: {key} is given twice, as {shown(spelling)} and {shown(self._twice[folded])}, "
                f"the first being {shown(value)}",
                "keys match without regard to case: keep one of the two",
            )
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.raw(key)
        if value is None:
            return default
        return self._checked_text(key, value)

    def integer(self, key: str, default: int = 0, least: int = _LEAST, most: int = _MOST) -> int:
        """A whole number from `least` to `most`, both included."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, "a whole number")
        if not least <= value <= most:
            raise self.error(key, f"a whole number from {least} to {most}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def section(self, key: str) -> Section:
        """The object under a key; empty when absent or null."""
        return Section.of(self.raw(key), f"{self.where}.{key}")

    def sections(self, key: str) -> tuple[Section, ...]:
        """A list of objects. A null in it is an error: it would be an object that says nothing."""
        found = []
        for i, value in enumerate(self._list(key, "a list of objects")):
            if not isinstance(value, dict):
                raise config_error(self.where, f"{key}[{i}]", value, "an object")
            found.append(Section(value, f"{self.where}.{key}[{i}]"))
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(key, "a list of strings")
        return tuple([self._checked_text(f"{key}[{i}]", value) for i, value in enumerate(values)])

    def unknown(self, known: Iterable[str]) -> list[str]:
        """The keys that aren't in `known`, as the configuration spells them and in its order."""
        folded = {key.lower() for key in known}
        return [spelling for key, (spelling, _) in self._entries.items() if key not in folded]

    def error(self, key: str, need: str) -> CNIError:
        """The error for a value that has the right type and can't be used; `need` completes "KEY must be …"."""
        return config_error(self.where, key, self.raw(key), need)

    def _list(self, key: str, need: str) -> list[object]:
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(key, need)
        return value

    def _checked_text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise config_error(self.where, key, value, "a string")
        if "\0" in value:
            raise config_error(self.where, key, value, "a string without NUL characters")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise config_error(self.where, key, value, "valid Unicode, not half of a surrogate pair") from None
        return value
