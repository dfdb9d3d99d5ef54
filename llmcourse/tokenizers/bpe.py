"""Byte-pair encoding: the tokenizer of GPT-2 and nearly all that came after. Part 4.

A vocabulary between bytes and words, found from data: every byte is a token, so that any text can
be written; frequent sequences of bytes are tokens too, so that little of it is long (Sennrich et
al. 2015, arXiv 1508.07909; on bytes: Radford et al. 2019, section 2.2).

A tokenizer here is a list of byte strings in the order they were learned, and the place in the list
is the id, and the *rank*. Encoding cuts the text (`pretokenize`), and in each piece joins, as long
as possible, the two neighbours whose joined bytes have the lowest rank, the leftmost of equals. A
piece that is a token as a whole is that token. This is the rule of tiktoken. The rule of the paper,
to replay the merged *pairs* in order, gives the same ids for every list that a trainer has learned.

`encode` reads like the rule for short texts, with a cache of words, and hands long ones to
tiktoken, which does the same in Rust; the two agree on any text, which the tests hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmcourse.tokenizers import bpe_files, bpe_huggingface
from llmcourse.tokenizers.base import (
    END_OF_TEXT,
    SpecialTokens,
    check_dict,
    check_errors_mode,
    checked_ids,
    utf8,
)
from llmcourse.tokenizers.bpe_merge import merge, merge_long, merge_once
from llmcourse.tokenizers.bpe_train import BYTES, count_words, learn_merges
from llmcourse.tokenizers.pretokenize import GPT4_PATTERN, named_pattern, split

if TYPE_CHECKING:
    import tiktoken

COURSE_SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|padding|>",
    "<|system|>",  # a turn of the conversation begins; who speaks
    "<|user|>",
    "<|assistant|>",
    "<|end_of_turn|>",
    "<|fim_prefix|>",  # fill-in-the-middle: what is before the gap, after it, and in it
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|begin_steps|>",  # worked steps, before an answer
    "<|end_steps|>",
    "<|thought|>",  # a position to think at, with no text of its own
)
"""What the course's own tokenizer reserves, so that no later part must change its ids."""

LONG_TEXT = 256  # characters: from here on tiktoken is worth its set-up
LONG_PIECE = 256  # bytes: from here on a heap finds the next merge
CACHED_PIECES = 1 << 16  # words: at some 300 bytes each, 20 MB
# Blanks in a row: in a million, tiktoken's matcher runs out of stack and panics.
_DESERT = 10_000


@dataclass(frozen=True)
class BPETokenizer:
    r"""Ids are places in `tokens`, then come the special tokens.

    Args:
        tokens: byte strings in order of rank; all 256 single bytes are among them.
        special_tokens: names of the tokens that stand for no text.
        pattern: how text is cut before merging; "gpt2", "gpt4" or a regular expression.

    Raises:
        ValueError: a byte is missing, a token is there twice or no bytes, or a bad pattern.

    >>> tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=258)
    >>> [tokenizer.token_bytes(id) for id in tokenizer.encode("lowest")]
    [b'low', b'e', b's', b't']
    """

    tokens: tuple[bytes, ...]
    special_tokens: tuple[str, ...] = ()
    pattern: str = GPT4_PATTERN

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str | bytes):
            raise ValueError("tokens must be a tuple of byte strings, got a single one")
        object.__setattr__(self, "tokens", tuple(self.tokens))
        for place, token in enumerate(self.tokens):
            if not isinstance(token, bytes) or not token:
                raise ValueError(f"tokens[{place}] must be non-empty bytes, got {token!r}")
        if len(self._ranks) < len(self.tokens):
            place = next(i for i, token in enumerate(self.tokens) if self._ranks[token] != i)
            raise ValueError(f"token {self.tokens[place]!r} is there twice; each needs one id")
        missing = [value for value in range(BYTES) if bytes([value]) not in self._ranks]
        if missing:
            raise ValueError(
                f"{len(missing)} of the 256 single bytes are missing, the first is"
                f" 0x{missing[0]:02x}; without them not every text has ids"
            )
        object.__setattr__(self, "pattern", named_pattern(self.pattern))
        object.__setattr__(self, "special_tokens", self._special.names)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: tuple[str, ...] = (),
        *,
        pattern: str = "gpt4",
        min_count: int = 2,
        progress: bool = False,
    ) -> BPETokenizer:
        """Learns a vocabulary from texts (`bpe_train` says how, and how ties are broken).

        Args:
            texts: documents; nothing is merged across them.
            vocab_size: ids in all: 256 bytes, the merges, and the special tokens. Texts too short
                for so many merges give a smaller vocabulary.
            special_tokens: names; `COURSE_SPECIAL_TOKENS` are the course's own.
            pattern: how text is cut before merging; "gpt2", "gpt4" or a regular expression.
            min_count: a pair that occurs more seldom is not merged.
            progress: show a bar.

        Raises:
            ValueError: a vocabulary without room for bytes and special tokens, no text, or another
                argument that is out of range.
        """
        expression = named_pattern(pattern)
        special = SpecialTokens(special_tokens, first_id=0)
        least = BYTES + len(special.names)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size={vocab_size} must be at least {least}: 256 bytes and"
                f" {len(special.names)} special tokens"
            )
        words = count_words(texts, expression)
        if not words:
            raise ValueError("texts hold no text to learn merges from")
        tokens = [bytes([value]) for value in range(BYTES)]
        merges = learn_merges(words, vocab_size - least, min_count=min_count, progress=progress)
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])
        return cls(tuple(tokens), special.names, expression)

    @property
    def vocab_size(self) -> int:
        """Tokens and special tokens together."""
        return len(self.tokens) + len(self.special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids; any text will do.

        With `allow_special` the names of special tokens become their ids; without it (the default)
        they are ordinary text.

        Raises:
            ValueError: a lone surrogate, which no tokenizer here can encode.
        """
        return self._encode(text, allow_special, fast=True)

    def encode_reference(self, text: str, allow_special: bool = False) -> list[int]:
        """The same as `encode`, by the rule of the module's header and without tiktoken."""
        return self._encode(text, allow_special, fast=False)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Bytes that need not be UTF-8 to ids: `decode_bytes` gives exactly them back.

        What is UTF-8 among them is encoded as text; a byte that is not is its own token.
        """
        if not isinstance(data, bytes | bytearray):
            raise ValueError(f"data must be bytes, got {type(data).__name__}")
        # "surrogateescape" turns byte b, where it is no UTF-8, into the surrogate U+DC00 + b.
        ids: list[int] = []
        text = bytes(data).decode("utf-8", "surrogateescape")
        for place, piece in enumerate(re.split("([\udc80-\udcff]+)", text)):
            if place % 2 == 0:
                ids += self.encode(piece)
            else:
                ids += [self._ranks[bytes([ord(mark) - 0xDC00])] for mark in piece]
        return ids

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Ids to text; the bytes are read as UTF-8, broken ones as `errors` says.

        Raises:
            ValueError: an id is out of range or no integer, or (`errors="strict"`) broken UTF-8.
        """
        check_errors_mode(errors)
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Ids to bytes; special tokens give those of their names."""
        table = self._table
        return b"".join([table[id] for id in checked_ids(ids, self.vocab_size)])

    def special_id(self, name: str) -> int:
        """The id of a special token; ValueError if there is none of that name."""
        return self._special.id(name)

    def token_bytes(self, id: int) -> bytes:
        """The bytes one id stands for; of a special token, those of its name."""
        [number] = checked_ids([id], self.vocab_size)
        return self._table[number]

    @cached_property
    def merges(self) -> tuple[tuple[int, int], ...]:
        """The pairs of ids that are joined, lowest rank first, one for each learned token.

        A token that its own bytes do not lead to has none (published lists may hold such tokens;
        only a piece that equals one becomes it).
        """
        ranks = self._ranks
        return tuple((ranks[way[0]], ranks[way[1]]) for way in self._ways.values() if way)

    def merge_steps(self, piece: str) -> list[list[bytes]]:
        """What becomes of a piece, merge by merge: first its bytes, last its tokens."""
        rest = utf8(piece)
        steps = [[rest[place : place + 1] for place in range(len(rest))]]
        while (joined := merge_once(steps[-1], self._ranks)) is not None:
            steps.append(joined)
        return steps

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, as JSON values; tokens spelled as in GPT-2's files."""
        return {
            "kind": "bpe",
            "tokens": [bpe_files.spell(token) for token in self.tokens],
            "special_tokens": list(self.special_tokens),
            "pattern": self.pattern,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BPETokenizer:
        """The inverse of `to_dict`; ValueError if `data` was not made by it."""
        check_dict(data, "bpe", {"tokens", "special_tokens", "pattern"})
        for field in ("tokens", "special_tokens"):
            if not isinstance(data[field], list | tuple):
                raise ValueError(f"{field!r} of a saved tokenizer must be a list of strings")
        tokens = tuple(bpe_files.unspell(token) for token in data["tokens"])
        return cls(tokens, tuple(data["special_tokens"]), data["pattern"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer to a JSON file with a checksum, all of it or none of it."""
        bpe_files.write_own(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """What `save` wrote; ValueError, naming the file, if it is damaged or something else."""
        with bpe_files.naming(path):
            return cls.from_dict(bpe_files.read_own(path))

    def to_tiktoken(self, name: str = "llmcourse") -> tiktoken.Encoding:
        """The same tokenizer as a `tiktoken.Encoding`, made without any network."""
        import tiktoken

        special = {token: self._special.id(token) for token in self.special_tokens}
        return tiktoken.Encoding(
            name, pat_str=self.pattern, mergeable_ranks=dict(self._ranks), special_tokens=special
        )

    def to_huggingface(self, path: str | os.PathLike[str]) -> None:
        """Writes a `tokenizer.json` for `tokenizers` and transformers.

        They turn the names of special tokens in any text into their ids, as `encode` does with
        `allow_special=True`.

        Raises:
            ValueError: a special token is named like an ordinary one, which the format mixes up.
        """
        bpe_huggingface.write(path, self.tokens, self.merges, self.special_tokens, self.pattern)

    @classmethod
    def from_huggingface(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """From a local `tokenizer.json` with byte-level BPE and special tokens at the end.

        The ids are those of `tokenizers` without the tokens it adds around a text
        (`add_special_tokens=False`).

        Raises:
            ValueError: damaged, or of a kind whose ids could differ from ours; says which.
        """
        with bpe_files.naming(path):
            found = bpe_huggingface.read(path)
            tokenizer = cls(found.tokens, found.special_tokens, found.pattern)
            return tokenizer._checked_against(found.pairs, found.whole_pieces)

    @classmethod
    def from_gpt2(
        cls, vocab_bpe: str | os.PathLike[str], encoder_json: str | os.PathLike[str]
    ) -> BPETokenizer:
        """From the two local files OpenAI published with GPT-2 (merges, and ids).

        Raises:
            ValueError: one is damaged, or they do not belong together; says which and where.
        """
        with bpe_files.naming(encoder_json):
            vocabulary = bpe_files.read_json(encoder_json)
        with bpe_files.naming(vocab_bpe):
            pairs = bpe_files.read_merges(vocab_bpe)
            tokens, special = bpe_files.tokens_of(vocabulary, pairs)
            return cls(tokens, special, "gpt2")._checked_against(pairs)

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        special_tokens: tuple[str, ...] = (),
        *,
        pattern: str = "gpt4",
    ) -> BPETokenizer:
        """From a local rank file of tiktoken: on each line a token in base64, and its rank.

        The file holds neither special tokens nor the pattern; their ids follow the ranks.

        Raises:
            ValueError: a damaged line, or ranks with a gap; names file and line.
        """
        with bpe_files.naming(path):
            return cls(bpe_files.read_ranks(path), special_tokens, pattern)

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent to another process without what was cached on the way.
        return type(self), (self.tokens, self.special_tokens, self.pattern)

    def _encode(self, text: str, allow_special: bool, fast: bool) -> list[int]:
        utf8(text)
        ids: list[int] = []
        for piece, is_special in self._special.split(text) if allow_special else [(text, False)]:
            if is_special:
                ids.append(self._special.id(piece))
            elif fast and self._suits_tiktoken(piece):
                ids += self._tiktoken.encode_ordinary(piece)
            else:
                ids += self._encode_by_words(piece)
        return ids

    def _suits_tiktoken(self, text: str) -> bool:
        if len(text) < LONG_TEXT or self._tiktoken is None:
            return False
        # So long a run covers two neighbours of a sample: without such, there is no need to search.
        suspicious = re.search(r"\s\s", text[:: _DESERT // 2])
        return not (suspicious and re.search(rf"\s{{{_DESERT}}}", text))

    def _encode_by_words(self, text: str) -> list[int]:
        cache = self._cache
        ids: list[int] = []
        for word in split(text, self.pattern):
            known = cache.get(word)
            if known is None:
                known = self._encode_word(word.encode("utf-8"))
                if len(word) < LONG_PIECE:
                    if len(cache) >= CACHED_PIECES:
                        cache.clear()
                    cache[word] = known
            ids += known
        return ids

    def _encode_word(self, word: bytes) -> list[int]:
        whole = self._ranks.get(word)
        if whole is not None:
            return [whole]
        parts = (merge if len(word) < LONG_PIECE else merge_long)(word, self._ranks)
        return [self._ranks[part] for part in parts]

    def _checked_against(self, pairs: list[bpe_files.Pair], whole: bool = False) -> BPETokenizer:
        # Ranks and pairs are two rules. They agree when every token comes about by a pair listed,
        # or (`whole`) is only ever a piece as a whole.
        listed = set(pairs)
        ways = {token: way for token, way in self._ways.items() if way is not None or not whole}
        for token, way in ways.items():
            if way not in listed:
                how = "no merge" if way is None else f"the merge of {way[0]!r} and {way[1]!r}"
                raise ValueError(
                    f"token {token!r} would come from {how}, which is not in the file: merges are"
                    " missing, or in the wrong order"
                )
        return self

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        return {token: rank for rank, token in enumerate(self.tokens)}

    @cached_property
    def _ways(self) -> dict[bytes, bpe_files.Pair | None]:
        # Which two tokens make each learned one: what its bytes become by the merges before it.
        ways: dict[bytes, bpe_files.Pair | None] = {}
        for rank, token in enumerate(self.tokens):
            if len(token) > 1:
                parts = merge(token, self._ranks, below=rank)
                ways[token] = (parts[0], parts[1]) if len(parts) == 2 else None
        return ways

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.special_tokens, first_id=len(self.tokens))

    @cached_property
    def _table(self) -> tuple[bytes, ...]:
        return (*self.tokens, *(name.encode("utf-8") for name in self.special_tokens))

    @cached_property
    def _cache(self) -> dict[str, list[int]]:
        return {}

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding | None:
        try:
            return self.to_tiktoken()
        except ImportError:
            return None
