"""The files that byte-pair vocabularies come in: ours, GPT-2's and tiktoken's. Part 4.

Three published formats are in use, and all say the same in different words.

- GPT-2's two files: `vocab.bpe` lists the merged pairs in order, `encoder.json` gives ids to the
  spelled tokens. (GPT-2's source, `encoder.py`; its paper is Radford et al. 2019.)
- Hugging Face's `tokenizer.json` holds both, with the pattern and the special tokens; it is read
  and written in `bpe_huggingface`.
- tiktoken's rank files: a token in base64 and its rank on each line, nothing else.

JSON cannot hold bytes, so the first two *spell* them: each byte is one printable character, a space
is "Ġ", a line end "Ċ". What a reader finds damaged it refuses with a `ValueError` that names the
file and the place; `naming` adds the name.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmcourse.files import atomic_write

Path_ = str | os.PathLike[str]
Pair = tuple[bytes, bytes]


def _alphabet() -> list[str]:
    # The printable characters of Latin-1 spell themselves; the others take the characters from
    # U+0100 on, in the order of their bytes.
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(value if value in itself else next(others)) for value in range(256)]


_CHARACTER = _alphabet()
_BYTE = {character: value for value, character in enumerate(_CHARACTER)}


def spell(token: bytes) -> str:
    """Bytes as printable characters, one each.

    >>> spell(b" the\\n")
    'ĠtheĊ'
    """
    return "".join([_CHARACTER[value] for value in token])


def unspell(text: str) -> bytes:
    """The inverse of `spell`; ValueError if a character spells no byte."""
    if not isinstance(text, str):
        raise ValueError(f"a token must be spelled as a string, got {type(text).__name__}")
    try:
        return bytes([_BYTE[character] for character in text])
    except KeyError as error:
        raise ValueError(
            f"the token {text!r} holds {error.args[0]!r}, which spells no byte;"
            " a byte-level vocabulary writes a space as 'Ġ'"
        ) from None


@contextlib.contextmanager
def naming(path: Path_) -> Iterator[None]:
    """Puts the file's name in front of what is said to be wrong inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{Path(path).name}: {error}") from None


def read_json(path: Path_) -> dict[str, Any]:
    """A JSON object from a file; ValueError if it is none, with the place where it breaks off."""
    try:
        data = json.loads(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}: damaged, or no JSON file") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"no JSON from line {error.lineno}, column {error.colno} on ({error.msg}): damaged,"
            " or cut off"
        ) from None
    if not isinstance(data, dict):
        raise ValueError(f"must hold a JSON object, got {type(data).__name__}")
    return data


def write_own(path: Path_, data: dict[str, Any]) -> None:
    """Our own format: `data` and its checksum."""
    whole = {"sha256": _digest(data), "tokenizer": data}
    atomic_write(path, json.dumps(whole, ensure_ascii=False, indent=0) + "\n")


def read_own(path: Path_) -> dict[str, Any]:
    """What `write_own` wrote; ValueError if it was not, or has changed since."""
    whole = read_json(path)
    if set(whole) != {"sha256", "tokenizer"} or not isinstance(whole["tokenizer"], dict):
        raise ValueError(
            "no tokenizer saved by this package; for tokenizer.json there is from_huggingface"
        )
    if _digest(whole["tokenizer"]) != whole["sha256"]:
        raise ValueError("damaged: the checksum does not fit the content")
    return whole["tokenizer"]


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()


def read_merges(path: Path_) -> list[Pair]:
    """The pairs of a `vocab.bpe`, in order."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}: damaged, or no list of merges") from None
    pairs = []
    # Not splitlines(): it also cuts at characters that could be in a token.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        with naming(f"line {number}"):
            pairs.append(pair_of(line.split(" ")))
    if not text.endswith("\n"):
        raise ValueError("cut off: the last line has no end")
    if not pairs:
        raise ValueError("holds no merges")
    return pairs


def pair_of(parts: object) -> Pair:
    """Two spelled tokens as bytes; ValueError if they are not two."""
    if not isinstance(parts, list) or len(parts) != 2 or not all(parts):
        raise ValueError(f"a merge is two tokens, got {parts!r}")
    return unspell(parts[0]), unspell(parts[1])


def tokens_of(
    vocabulary: dict[str, Any],
    pairs: Sequence[Pair],
    added: Sequence[str] = (),
    whole_pieces: bool = False,
) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """The tokens in order of id, and the names of the special tokens, which must come last.

    Args:
        vocabulary: spelled token -> id. A name that no merge makes is a special token's, unless
            two other tokens spell it: then a merge is missing.
        pairs: the merges in order, which must be the order of the ids they make.
        added: names that are special tokens, whether or not they look like tokens.
        whole_pieces: there may be tokens that no merge makes.

    Raises:
        ValueError: an id is missing or there twice, or ids and merges do not belong together.
    """
    names = _in_order(vocabulary)
    made: list[bytes] = []
    for place, (left, right) in enumerate(pairs):
        for part in (left, right):
            if spell(part) not in vocabulary:
                raise ValueError(f"merge {place} joins {part!r}, which has no id")
        # Several ways to one token stand side by side in files converted from rank files.
        if not made or made[-1] != left + right:
            made.append(left + right)
    special_set = set(added)
    ordinary = [name for name in names if name not in special_set]
    while not whole_pieces and len(ordinary) > 256 + len(made):
        name = ordinary.pop()
        parts = ((name[:cut], name[cut:]) for cut in range(1, len(name)))
        if any(left in vocabulary and right in vocabulary for left, right in parts):
            raise ValueError(f"no merge makes the token {name!r}: merges are missing, or cut off")
        special_set.add(name)
    special = tuple(names[len(ordinary) :])
    if set(special) != special_set:
        early = next(name for name in names[: len(ordinary)] if name in special_set)
        raise ValueError(
            f"the special token {early!r} has the id {vocabulary[early]}, before ordinary tokens;"
            " here special tokens come last"
        )
    tokens = tuple(unspell(name) for name in ordinary)
    longer = [token for token in tokens if len(token) > 1]
    if whole_pieces:
        makeable = set(made)
        longer = [token for token in longer if token in makeable]
    for place, (token, merged) in enumerate(itertools.zip_longest(longer, made)):
        if token != merged:
            raise ValueError(
                f"merges and ids do not belong together: merge {place} makes {merged!r}, but the"
                f" ids go on with {token!r}"
            )
    return tokens, special


def _in_order(vocabulary: dict[str, Any]) -> list[str]:
    names: list[str | None] = [None] * len(vocabulary)
    for name, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < len(names):
            raise ValueError(
                f"token {name!r} has the id {id!r}; {len(names)} tokens need the ids 0 to"
                f" {len(names) - 1}"
            )
        if names[id] is not None:
            raise ValueError(f"tokens {names[id]!r} and {name!r} both have the id {id}")
        names[id] = name
    return [name for name in names if name is not None]


def read_ranks(path: Path_) -> tuple[bytes, ...]:
    """The tokens of a tiktoken rank file, in order of rank."""
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            if len(parts) != 2:
                raise ValueError("not two columns")
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"line {number} should be a token in base64 and its rank, got {line[:60]!r}"
                f" ({error})"
            ) from None
        if rank in tokens:
            raise ValueError(f"line {number}: rank {rank} is there twice")
        tokens[rank] = token
    for rank in range(len(tokens)):
        if rank not in tokens:
            raise ValueError(f"rank {rank} is missing; ranks must go from 0 on without a gap")
    return tuple(tokens[rank] for rank in range(len(tokens)))
