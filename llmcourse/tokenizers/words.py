"""The word tokenizer: one id for each common word, and bytes for all the rest. Part 2.

In a small world, a few hundred words are nearly all there is. One id a word makes sequences four
times as short as bytes, and saves a model the work of spelling; the price is a larger table, and no
help with a word it has never seen, which falls apart into bytes. Byte-pair encoding, in Part 4,
finds its way between the two by itself.

A word takes the space before it along (" went"), as in GPT-2, so that a sentence is as many tokens
as it has words and marks.
"""

from __future__ import annotations

import re
from collections import Counter
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

BYTES = 256
# Letters with the space before them, the tail of "Ada's", a mark, or a lone space: whatever the
# text, the pieces joined give it back.
_PIECES = re.compile(r" ?[^\W\d_]+|'[^\W\d_]+| ?(?:[^\w\s]|\d|_)|\s", re.UNICODE)


@dataclass(frozen=True)
class WordTokenizer:
    """Ids 0 to 255 are bytes, then come the words, then the special tokens.

    >>> tokenizer = WordTokenizer.train(["the cat and the dog"])
    >>> tokenizer.decode(tokenizer.encode("the dog")), len(tokenizer.encode("the dog"))
    ('the dog', 2)
    """

    words: tuple[str, ...]
    special_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.words, str):
            raise ValueError("words must be a tuple of words, got a single string")
        object.__setattr__(self, "words", tuple(self.words))
        for place, word in enumerate(self.words):
            if not isinstance(word, str) or _PIECES.fullmatch(word) is None:
                raise ValueError(
                    f"words[{place}] is {word!r}, which is not one piece of text: "
                    f"letters, or one mark, with at most one space before"
                )
        if len(self._index) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"word {twice!r} is there twice; each word needs one id")
        object.__setattr__(self, "special_tokens", self._special.names)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        special_tokens: tuple[str, ...] = (),
        max_words: int = 4096,
    ) -> WordTokenizer:
        """The most frequent words of some texts, at most `max_words`; the rest stays bytes.

        Of equally frequent words the one earlier in Unicode's order wins, so that the same texts
        give the same ids in whatever order they come. One-byte pieces have an id already.

        Raises:
            ValueError: no text, or a `max_words` that is not positive.
        """
        if isinstance(texts, str):
            raise ValueError("texts must be several texts, got a single str; put it in a list")
        if max_words < 1:
            raise ValueError(f"max_words={max_words} must be at least 1")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_PIECES.findall(text))
        if not counts:
            raise ValueError("texts hold no words to make a vocabulary of")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple([w for w in ranked if len(utf8(w)) > 1][:max_words]), special_tokens)

    @property
    def vocab_size(self) -> int:
        """Bytes, words and special tokens together."""
        return BYTES + len(self.words) + len(self.special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids; any text will do.

        With `allow_special` the names of special tokens become their ids; without it (the default)
        they are ordinary text.

        Raises:
            ValueError: a lone surrogate, which no tokenizer here can encode.
        """
        utf8(text)
        ids: list[int] = []
        for piece, is_special in self._special.split(text) if allow_special else [(text, False)]:
            if is_special:
                ids.append(self._special.id(piece))
                continue
            for word in _PIECES.findall(piece):
                known = self._index.get(word)
                ids.extend(word.encode("utf-8") if known is None else (known,))
        return ids

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Ids to text; bytes side by side are read as UTF-8, broken ones as `errors` says.

        Raises:
            ValueError: an id is out of range or no integer, or (`errors="strict"`) broken UTF-8.
        """
        check_errors_mode(errors)
        table = self._table
        data = b"".join(table[id] for id in checked_ids(ids, self.vocab_size))
        return data.decode("utf-8", errors)

    def special_id(self, name: str) -> int:
        """The id of a special token; ValueError if there is none of that name."""
        return self._special.id(name)

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes one id stands for; of a special token, those of its name."""
        [number] = checked_ids([id], self.vocab_size)
        return self._table[number]

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as JSON values."""
        return {
            "kind": "words",
            "words": list(self.words),
            "special_tokens": list(self.special_tokens),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WordTokenizer:
        """The inverse of `to_dict`; ValueError if `data` was not made by it."""
        check_dict(data, "words", {"words", "special_tokens"})
        return cls(tuple(data["words"]), tuple(data["special_tokens"]))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: BYTES + place for place, word in enumerate(self.words)}

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.special_tokens, first_id=BYTES + len(self.words))

    @cached_property
    def _table(self) -> tuple[bytes, ...]:
        spelled = [word.encode("utf-8") for word in (*self.words, *self.special_tokens)]
        return (*(bytes([value]) for value in range(BYTES)), *spelled)
