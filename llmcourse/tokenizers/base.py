"""What every tokenizer can do, and how special tokens are kept apart from text. Part 2.

A tokenizer turns text into ids and ids back into text. *Special tokens* are ids that stand for no
text at all: the end of a document, later the turns of a conversation. They have names that look
like text (`<|endoftext|>`), and there lies a trap: a user who types that name must not be able to
end the document. So `encode` reads the names as the plain characters they are, and only a caller
who says `allow_special=True` (the program's own templates) gets the special ids.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

END_OF_TEXT = "<|endoftext|>"
"""The name of the token that ends a document; GPT-2 writes it the same way."""


@runtime_checkable
class Tokenizer(Protocol):
    """The interface the rest of the course relies on; every tokenizer here fulfils it."""

    special_tokens: tuple[str, ...]

    @property
    def vocab_size(self) -> int:
        """Number of ids: the valid ones are 0 to vocab_size - 1."""
        ...

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids."""
        ...

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Ids to text; special tokens appear under their names."""
        ...

    def special_id(self, name: str) -> int:
        """The id of a special token."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes one id stands for."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as values JSON can hold; `load_tokenizer` is the inverse."""
        ...


@dataclass(frozen=True)
class SpecialTokens:
    """Names of special tokens and their ids, which follow one another from `first_id` on.

    Raises:
        ValueError: a name is empty, not a string, or there twice.
    """

    names: tuple[str, ...]
    first_id: int

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(
                f"special_tokens must be a tuple of names, got the single string {self.names!r};"
                f" write ({self.names!r},)"
            )
        object.__setattr__(self, "names", tuple(self.names))
        for position, name in enumerate(self.names):
            if not isinstance(name, str) or not name:
                raise ValueError(f"a special token must be a non-empty string, got {name!r}")
            if name in self.names[:position]:
                raise ValueError(f"special token {name!r} is there twice; each name needs one id")
            utf8(name)

    def id(self, name: str) -> int:
        """The id of `name`.

        Raises:
            ValueError: there is no such special token; the message lists those there are.
        """
        if name not in self.names:
            known = ", ".join(map(repr, self.names)) or "none"
            raise ValueError(f"no special token {name!r}; this tokenizer has: {known}")
        return self.first_id + self.names.index(name)

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cuts text into (piece, is_special) pairs, whose pieces joined give the text again.

        Where two names could start at the same place the longer one wins, so that `<|end|>` never
        breaks `<|end|><|turn|>` apart when the latter is a token of its own.
        """
        if not self.names:
            yield text, False
            return
        longest_first = sorted(self.names, key=len, reverse=True)
        pattern = "(" + "|".join(map(re.escape, longest_first)) + ")"
        # With a capturing group, re.split returns text and matches in turn: odd places are matches.
        for place, piece in enumerate(re.split(pattern, text)):
            if piece:
                yield piece, place % 2 == 1


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text.

    Raises:
        ValueError: `text` is no string, or holds a lone surrogate. (A surrogate is half of a pair
            in UTF-16; alone it is no character, and UTF-8 has no bytes for it. It comes from files
            read with `errors="surrogateescape"` and from cut JSON escapes.)
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a str, got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"position {error.start} of the text holds the lone surrogate U+{code:04X}, which is no"
            " character and has no UTF-8 bytes; remove it or decode the source as UTF-8"
        ) from None


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Ids as a list of Python integers; lists, ranges, NumPy arrays and torch tensors will do.

    Raises:
        ValueError: not one row of integers, or an id outside 0 to vocab_size - 1.
    """
    # Arrays and tensors of any library know how to become a list: no need to import the library.
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"ids must be one row of integers, got {type(ids).__name__}")
    row = []
    for position, value in enumerate(values):
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError(
                f"ids must be one row of integers, but position {position} holds"
                f" {type(value).__name__}"
            ) from None
        if not 0 <= number < vocab_size:
            raise ValueError(
                f"token id {number} at position {position} is out of range;"
                f" this tokenizer has ids 0 to {vocab_size - 1}"
            )
        row.append(number)
    return row


def check_errors_mode(errors: str) -> None:
    """Refuses a mode for broken UTF-8 that `decode` does not know."""
    modes = ("replace", "strict", "ignore", "backslashreplace")
    if errors not in modes:
        raise ValueError(f"errors must be one of {', '.join(modes)}; got {errors!r}")


def check_dict(data: dict[str, Any], kind: str, fields: set[str]) -> None:
    """Refuses a saved tokenizer that is of another kind, or has other fields than it should."""
    if data.get("kind") != kind:
        raise ValueError(f"expected a saved tokenizer of kind {kind!r}, got {data.get('kind')!r}")
    expected = {"kind", *fields}
    if set(data) != expected:
        raise ValueError(
            f"a {kind!r} tokenizer has the fields {sorted(expected)}, got {sorted(data)}"
        )
