"""The character tokenizer: one id for each character that occurs in the training text. Part 2.

Shorter sequences than bytes outside English, and each id is something one can read. The price is a
vocabulary that depends on the text it was made from: a character that was not in it has no id, and
encoding it is an error. That trade, between a closed vocabulary and longer sequences, is the one
that byte-pair encoding settles in Part 4.
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


@dataclass(frozen=True)
class CharacterTokenizer:
    """Id i is `characters[i]`; special tokens follow after the last character.

    >>> tokenizer = CharacterTokenizer.train(["banana"])
    >>> tokenizer.characters, tokenizer.encode("nab")
    ('abn', [2, 0, 1])
    """

    characters: str
    special_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        utf8(self.characters)
        if not self.characters:
            raise ValueError("characters is empty; a tokenizer needs at least one character")
        if len(self._index) < len(self.characters):
            twice = next(c for c in self.characters if self.characters.count(c) > 1)
            raise ValueError(f"character {twice!r} is there twice; each character needs one id")
        object.__setattr__(self, "special_tokens", self._special.names)

    @classmethod
    def train(
        cls, texts: Iterable[str], special_tokens: tuple[str, ...] = ()
    ) -> CharacterTokenizer:
        """The vocabulary of some texts: every character in them, in the order of Unicode.

        Sorted, so that the ids depend on which characters occur and not on where.

        Raises:
            ValueError: the texts hold no character at all, or a lone surrogate.
        """
        found: set[str] = set()
        for text in texts:
            found.update(text)
        if not found:
            raise ValueError("texts hold no characters to make a vocabulary of")
        return cls("".join(sorted(found)), special_tokens)

    @property
    def vocab_size(self) -> int:
        """Characters and special tokens together."""
        return len(self.characters) + len(self.special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids, one per character.

        With `allow_special` the names of special tokens become their ids; without it (the default)
        they are characters like all other text.

        Raises:
            ValueError: a character is not in the vocabulary; names it and its position.
        """
        utf8(text)
        pieces = self._special.split(text) if allow_special else [(text, False)]
        ids: list[int] = []
        position = 0
        for piece, is_special in pieces:
            if is_special:
                ids.append(self._special.id(piece))
            else:
                ids.extend(self._encode_piece(piece, position))
            position += len(piece)
        return ids

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Ids to text. `errors` is there for the common interface: no id here is half a character.

        Raises:
            ValueError: an id is out of range, or is no integer.
        """
        check_errors_mode(errors)
        return "".join(self._table[id] for id in checked_ids(ids, self.vocab_size))

    def special_id(self, name: str) -> int:
        """The id of a special token; ValueError if there is none of that name."""
        return self._special.id(name)

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes of a character, or of a special token's name."""
        [number] = checked_ids([id], self.vocab_size)
        return self._table[number].encode("utf-8")

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as JSON values."""
        return {
            "kind": "characters",
            "characters": self.characters,
            "special_tokens": list(self.special_tokens),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CharacterTokenizer:
        """The inverse of `to_dict`; ValueError if `data` was not made by it."""
        check_dict(data, "characters", {"characters", "special_tokens"})
        return cls(data["characters"], tuple(data["special_tokens"]))

    def _encode_piece(self, piece: str, start: int) -> list[int]:
        try:
            return [self._index[character] for character in piece]
        except KeyError as error:
            character = error.args[0]
            position = start + piece.index(character)
            raise ValueError(
                f"character {character!r} at position {position} is not in the vocabulary of"
                f" {len(self.characters)} characters; train the tokenizer on text that has it,"
                " or use ByteTokenizer, which knows every text"
            ) from None

    @cached_property
    def _index(self) -> dict[str, int]:
        return {character: id for id, character in enumerate(self.characters)}

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.special_tokens, first_id=len(self.characters))

    @cached_property
    def _table(self) -> tuple[str, ...]:
        return (*self.characters, *self.special_tokens)
