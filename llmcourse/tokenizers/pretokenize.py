r"""Pre-tokenisation: cutting text into words, numbers, marks and spaces before any merge. Part 4.

Byte-pair encoding never merges across these cuts, so "dog", "dog." and "dog!" share the token
"dog", and a text can be encoded word by word with a cache. The two patterns are those of GPT-2
(Radford et al. 2019, section 2.2, and the encoder published with it) and of GPT-4's `cl100k_base`,
which keeps a space with any word, takes numbers three digits at a time and joins line ends.

They are written for the package `regex`, since Python's own `re` knows no `\p{L}` (any letter).
Deviations: texts that are plain ASCII go through an equal pattern for `re`, three times as fast;
and where Unicode has grown since the tables inside tiktoken were made, tiktoken's opinion of the
new characters is taken, so that the same text is cut the same way by both.
"""

from __future__ import annotations

import re
from functools import lru_cache

import regex

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # one line, no flags
)
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}

# The same for text of the first 128 characters only. What can be given back to a later alternative
# never helps it here, so the repetitions are possessive ("++"): the matcher keeps no way back.
_SPACE = r"\t-\r "  # in `re`, \s would also take the separators \x1c to \x1f
_ASCII = {
    GPT2_PATTERN: (
        r"'(?:[sdmt]|ll|ve|re)| ?[a-zA-Z]++| ?[0-9]++"
        rf"| ?[^{_SPACE}a-zA-Z0-9]++|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]++"
    ),
    GPT4_PATTERN: (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\na-zA-Z0-9]?[a-zA-Z]++|[0-9]{1,3}+"
        rf"| ?[^{_SPACE}a-zA-Z0-9]++[\r\n]*+|[{_SPACE}]*[\r\n]++|[{_SPACE}]+(?![^{_SPACE}])"
        rf"|[{_SPACE}]++"
    ),
}
# Both patterns always cut before a space that follows something else. So a long stretch of ASCII
# from one such place to another can be cut by itself.
_ASCII_STRETCH = re.compile(r"(?<=\S) [\x00-\x7f]{100,}(?<=\S)(?= )")
# What stands in for a character in dispute while the cuts are made: one of each class that no
# alternative above treats in a way of its own ("s" would not do: it follows an apostrophe).
_STAND_IN = {r"\p{L}": "a", r"\p{N}": "0", r"\p{M}": "\u0301", "other": "\ue000"}


def named_pattern(pattern: str) -> str:
    """The regular expression of a name in `PATTERNS`, or the expression itself.

    Raises:
        ValueError: it is no regular expression, or one that not every library reads alike.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"pattern must be a str, got {type(pattern).__name__}")
    known = ", ".join(map(repr, PATTERNS))
    expression = PATTERNS.get(pattern, pattern)
    if "&&" in expression:
        raise ValueError(
            f"pattern {pattern!r} intersects sets with &&, which libraries read differently;"
            f" there are: {known}"
        )
    try:
        if not expression or regex.compile(expression).match("") is not None:
            raise ValueError(f"pattern {pattern!r} matches the empty text; there are: {known}")
    except regex.error as error:
        raise ValueError(
            f"pattern {pattern!r} is no regular expression ({error}); there are: {known}"
        ) from None
    return expression


def split(text: str, pattern: str) -> list[str]:
    """The pieces of `text` between which nothing is merged.

    Joined, they give the text again when `pattern` has an alternative for every character, as both
    patterns above do; tiktoken too drops what no alternative matches.

    >>> split("We'll see 1234 cats!", GPT4_PATTERN)
    ['We', "'ll", ' see', ' ', '123', '4', ' cats', '!']
    """
    if pattern not in _ASCII:
        return _split_any(text, pattern)
    ascii_pieces = _compiled_ascii(pattern).findall
    if text.isascii():
        return ascii_pieces(text)
    pieces: list[str] = []
    done = 0
    for stretch in _ASCII_STRETCH.finditer(text):
        pieces += _split_any(text[done : stretch.start()], pattern)
        pieces += ascii_pieces(stretch.group())
        done = stretch.end()
    return pieces + _split_any(text[done:], pattern)


def _split_any(text: str, pattern: str) -> list[str]:
    compiled = _compiled(pattern)
    if not text.isascii():
        table, disputed = _disputed()
        if not disputed.isdisjoint(text):
            shadow = text.translate(table)  # of the same length, so that cuts there are cuts here
            return [text[slice(*match.span())] for match in compiled.finditer(shadow)]
    if not compiled.groups:
        return compiled.findall(text)
    return [match.group() for match in compiled.finditer(text)]


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)


@lru_cache(maxsize=2)
def _compiled_ascii(pattern: str) -> re.Pattern[str]:
    return re.compile(_ASCII[pattern])


@lru_cache(maxsize=1)
def _disputed() -> tuple[dict[int, str], frozenset[str]]:
    """The characters that `regex` and tiktoken class differently: their stand-ins, and all of them.

    Found by asking both about every character, once a process, when text beyond ASCII comes.
    """
    try:
        import tiktoken
    except ImportError:
        return {}, frozenset()
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    ranks = {bytes([value]): value for value in range(256)}
    table: dict[int, str] = {}
    settled: set[str] = set()
    for kind, stand_in in _STAND_IN.items():
        if kind == "other":
            continue
        run = f"{kind}+"
        probe = tiktoken.Encoding("probe", pat_str=run, mergeable_ranks=ranks, special_tokens={})
        # What the pattern does not match is dropped, so the ids are the bytes of the class.
        theirs = set(bytes(probe.encode_ordinary(everything)).decode("utf-8"))
        ours = set("".join(regex.findall(run, everything)))
        for character in theirs - ours:
            table[ord(character)] = stand_in
            settled.add(character)
        for character in ours - theirs - settled:
            table.setdefault(ord(character), _STAND_IN["other"])
    return table, frozenset(map(chr, table))
