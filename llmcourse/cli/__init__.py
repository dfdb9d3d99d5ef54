"""The command `llmcourse`: one module per subcommand, imported only when it is called.

So `llmcourse --help` and `llmcourse where` answer at once, without torch. A user's mistake is one
line that starts with "error:" and exit code 2; `--traceback` shows where it came from.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from llmcourse import __version__
from llmcourse.errors import CourseError

COMMANDS = {
    "lab": "open the course in JupyterLab",
    "doctor": "check this machine: versions, device, kernel, a ten-second training",
    "where": "find a name or a concept: file, line, part and paper",
    "data": "prepare text for training: shards of tokens with an index and checksums",
    "train": "train a model from a config file and flags",
    "stages": "the models that later parts start from: list, build, report",
    "generate": "let a trained model write",
    "grade": "grade exercise notebooks or folders of them",
    "progress": "show which exercises you have solved",
    "evidence": "make a chapter's recorded measurements anew; takes minutes",
}

# What can go wrong although the program is right: shown as one line.
_EXPECTED = (CourseError, ValueError, OSError, FloatingPointError, argparse.ArgumentError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 something failed, 2 a wrong call."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        return _dispatch(arguments)
    except BrokenPipeError:
        # `llmcourse where attention | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if traceback:
            raise
        print("stopped", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        if traceback:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"llmcourse {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ValueError(f"there is no command {name!r}; {guess}")
    return importlib.import_module(f"llmcourse.cli.{name}").run(rest)


def _help() -> str:
    lines = ["usage: llmcourse COMMAND [options]", ""]
    lines += [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    lines += [
        "",
        "llmcourse COMMAND --help lists a command's options. With any command, --traceback shows",
        "where an error came from. Start with: llmcourse lab",
    ]
    return "\n".join(lines)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
