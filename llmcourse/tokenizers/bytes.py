"""The byte tokenizer: text is UTF-8, and each byte is its own id. Part 2.

The simplest tokenizer that can read anything. There are 256 bytes, so there are 256 ids, and no
text in any language is ever "unknown". The price is length: an English letter costs one token, a
Cyrillic one two, most Chinese characters three, an emoji four or more. And a model may stop in the
middle of a character, so decoding must cope with broken UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmcourse.tokenizers.base import (
    SpecialTokens,
    check_dict,
    check_errors_mode,
    checked_ids,
    utf8,
)

N_BYTES = 256


@dataclass(frozen=True)
class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves; special tokens follow from 256 on.

    >>> ByteTokenizer().encode("é!")
    [195, 169, 33]
    """

    special_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_tokens", self._special.names)

    @property
    def vocab_size(self) -> int:
        """256 bytes and the special tokens."""
        return N_BYTES + len(self.special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids, one per UTF-8 byte.

        With `allow_special` the names of special tokens become their ids; without it (the default,
        right for anything a user typed) they are bytes like all other text.

        Raises:
            ValueError: `text` is no string, or holds a lone surrogate.
        """
        data = utf8(text)
        if not allow_special:
            return list(data)
        ids: list[int] = []
        for piece, is_special in self._special.split(text):
            if is_special:
                ids.append(self._special.id(piece))
            else:
                ids.extend(piece.encode("utf-8"))
        return ids

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Ids to text; `errors` says what becomes of bytes that are no UTF-8.

        "replace" puts U+FFFD in their place, "ignore" drops them, "backslashreplace" shows them,
        "strict" raises.

        Raises:
            ValueError: an id is out of range, or is no integer; or, when strict, broken UTF-8.
        """
        check_errors_mode(errors)
        row = checked_ids(ids, self.vocab_size)
        # Join first and decode once: a character may be spread over several ids.
        return b"".join(self._table[id] for id in row).decode("utf-8", errors=errors)

    def special_id(self, name: str) -> int:
        """The id of a special token; ValueError if there is none of that name."""
        return self._special.id(name)

    def token_bytes(self, id: int) -> bytes:
        """The byte behind an id; for a special token, the UTF-8 bytes of its name."""
        [number] = checked_ids([id], self.vocab_size)
        return self._table[number]

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as JSON values."""
        return {"kind": "bytes", "special_tokens": list(self.special_tokens)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ByteTokenizer:
        """The inverse of `to_dict`; ValueError if `data` was not made by it."""
        check_dict(data, "bytes", {"special_tokens"})
        return cls(tuple(data["special_tokens"]))

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.special_tokens, first_id=N_BYTES)

    @cached_property
    def _table(self) -> tuple[bytes, ...]:
        plain = (bytes([value]) for value in range(N_BYTES))
        return (*plain, *(name.encode("utf-8") for name in self.special_tokens))
