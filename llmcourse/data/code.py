"""The corpus "code": the sources of Python's standard library. Part 2.

Megabytes of good Python, on every machine that runs Python. Files are held out by *module*: the
files of one package share names, idioms and docstrings, and a package that is half in training is
half given away.

What is left out, and why: tests and `idlelib`, `turtledemo`, `lib2to3` (not library code);
`encodings` and `pydoc_data` (tables of characters; the text of the corpus "docs");
`_sysconfigdata*` and the site's own files (they describe one machine).
"""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

from llmcourse.data.corpus import Corpus, hash_position, held_out
from llmcourse.errors import CorpusError

HELD_OUT_SHARE = 0.15  # of the modules; the largest happen to stay, so it is 6 to 12% of the bytes
LEFT_OUT = {
    *("test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip", "__phello__"),
    *("encodings", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__", "sitecustomize.py", "usercustomize.py"),
}


def code_corpus(*, max_bytes: int = 2_000_000) -> Corpus:
    """Standard-library sources, a file a document, about a tenth of the modules held out.

    Args:
        max_bytes: the size of both parts together. Files are drawn in the order of a hash of their
            path, and those that still fit are taken (second copies are not): a fair sample rather
            than "a" to "c".

    Raises:
        ValueError: `max_bytes` is not positive.
        CorpusError: this Python has no sources (it runs from a zip file), or the limit is so small
            that one part is empty.
    """
    if max_bytes <= 0:
        raise ValueError(f"max_bytes must be positive, got {max_bytes}")
    library = Path(sysconfig.get_paths()["stdlib"])
    chosen: dict[str, str] = {}
    room = max_bytes
    for path in sorted(source_paths(library), key=lambda path: hash_position(f"code:{path}")):
        if (library / path).stat().st_size > room:
            continue
        text = _read(library / path)
        if text and text not in chosen.values():
            chosen[path] = text
            room -= len(text.encode("utf-8"))
    if not chosen:
        raise CorpusError(
            f"no Python sources of at most {max_bytes:,} bytes under {library}; raise max_bytes,"
            ' or use another corpus: "docs", "tales" or "file:PATH"'
        )

    train, validation = [], []
    for path, text in sorted(chosen.items()):
        hold_out = held_out(f"code:{module_of(path)}", HELD_OUT_SHARE)
        (validation if hold_out else train).append(text)
    source = (
        f"The standard library of Python {platform.python_version()}, at most {max_bytes:,} bytes,"
        " held out by module; Python Software Foundation License, version 2."
    )
    return Corpus("code", tuple(train), tuple(validation), source)


def source_paths(library: Path) -> list[str]:
    """The library's sources as paths relative to it, with "/", sorted."""
    paths = []
    for file in library.rglob("*.py"):
        parts = file.relative_to(library).parts
        generated = parts[0].startswith(("_sysconfigdata", "config-"))
        if not generated and not LEFT_OUT.intersection(parts) and file.is_file():
            paths.append("/".join(parts))
    return sorted(paths)


def module_of(path: str) -> str:
    """The top-level module a file belongs to: json for "json/decoder.py".

    A leading underscore is dropped, since `_osx_support` and its like are the other half of the
    module that has no underscore.
    """
    return path.split("/")[0].removesuffix(".py").lstrip("_")


def _read(file: Path) -> str:
    """The text, without blank lines around it; empty for the few files in another encoding."""
    try:
        return file.read_text(encoding="utf-8").strip("\n")
    except UnicodeDecodeError:
        return ""
