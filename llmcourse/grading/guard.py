"""Seeing to it that an answer does its own work.

While an answer runs, the functions that would do the exercise by themselves are replaced by ones
that refuse, and Python's profiling hook watches for the same functions under another name and for
calls into this package. Before it runs, its code is read for names that lead to either. This keeps
honest people honest: it makes an accidental shortcut a clear message. Against somebody who sets out
to cheat the grader runs submissions in processes of their own.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parent.parent
# The checker's own frames, and the callables it hands to answers, live in these files.
_ALLOWED = {
    str(_PACKAGE / "grading" / name) for name in ("inputs.py", "routes.py", "guard.py", "judge.py")
}


class ShortcutUsed(Exception):
    """An answer called a function that does the exercise for it."""


def resolve(dotted: str) -> tuple[Any, str, Any]:
    """The owner, the attribute's name and the object a dotted name stands for.

    Raises:
        ValueError: nothing has that name: a typing mistake in a record would forbid nothing.
    """
    pieces = dotted.split(".")
    for cut in range(len(pieces) - 1, 0, -1):
        try:
            owner: Any = import_module(".".join(pieces[:cut]))
        except ImportError:
            continue
        for piece in pieces[cut:-1]:
            owner = getattr(owner, piece, None)
        if hasattr(owner, pieces[-1]):
            return owner, pieces[-1], getattr(owner, pieces[-1])
    raise ValueError(f"the forbidden name {dotted!r} does not exist")


class Guard:
    """Forbids a list of dotted names. `with guard.watch(): answer(...)`; then read `used`."""

    def __init__(self, forbidden: tuple[str, ...]) -> None:
        self.used: str | None = None
        self._targets = [(name, *resolve(name)) for name in forbidden]
        self._codes = {
            target.__code__: name
            for name, _, _, target in self._targets
            if isinstance(target, FunctionType)
        }
        self._builtins = {
            id(target): name for name, _, _, target in self._targets if not isinstance(target, type)
        }
        self._methods = {
            attribute: name for name, owner, attribute, _ in self._targets if owner is torch.Tensor
        }

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Refuse and record forbidden calls within; everything is as before afterwards."""
        profile = sys.getprofile()
        with contextlib.ExitStack() as stack:
            for name, owner, attribute, _ in self._targets:
                stack.enter_context(_replaced(owner, attribute, self._refusal(name)))
            sys.setprofile(self._observe)
            try:
                yield
            finally:
                sys.setprofile(profile)

    def _refusal(self, name: str) -> Callable[..., Any]:
        def refuse(*_args: Any, **_kwargs: Any) -> Any:
            # Recorded as well as raised, so that a bare `except:` in the answer hides nothing.
            self.used = self.used or name
            raise ShortcutUsed(name)

        return refuse

    def _observe(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            name = self._codes.get(frame.f_code) or _library_name(frame)
        elif event == "c_call":
            name = self._builtins.get(id(argument))
            if name is None and isinstance(getattr(argument, "__self__", None), torch.Tensor):
                name = self._methods.get(argument.__name__)
        else:
            return
        if name is not None:
            self.used = self.used or name
            raise ShortcutUsed(name)

    def read(self, answer: Callable[..., Any]) -> str | None:
        """The first forbidden name that the answer's code leads to, helpers included."""
        return _first_forbidden(answer, {id(t): name for name, _, _, t in self._targets}, set())


@contextlib.contextmanager
def _replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    # Tensor methods are inherited from a C class: those are shadowed and uncovered again.
    own = attribute in vars(owner)
    before = vars(owner).get(attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, attribute, before)
        else:
            delattr(owner, attribute)


def _library_name(frame: FrameType) -> str | None:
    filename = frame.f_code.co_filename
    if not filename.startswith(str(_PACKAGE)) or filename in _ALLOWED:
        return None
    module = frame.f_globals.get("__name__", "llmcourse")
    return f"{module}.{frame.f_code.co_name}"


def library_of(answer: Any) -> str | None:
    """The dotted name of an answer that was imported rather than written, else None."""
    while isinstance(answer, functools.partial):
        answer = answer.func
    answer = inspect.unwrap(answer) if callable(answer) else answer
    name = getattr(answer, "__qualname__", None) or type(answer).__qualname__
    module = getattr(answer, "__module__", None) or ""
    root = module.partition(".")[0]
    if not isinstance(answer, FunctionType) and inspect.isroutine(answer):
        owner = getattr(answer, "__objclass__", None)
        return f"{module or getattr(owner, '__module__', 'torch')}.{name}"
    if root in {"torch", "numpy", "scipy", "transformers", "llmcourse"}:
        return f"{module}.{name}"
    kind = type(answer)  # an nn.Module or another ready-made object
    if not isinstance(answer, FunctionType | type) and kind.__module__.partition(".")[0] in {
        "torch",
        "llmcourse",
        "transformers",
    }:
        return f"{kind.__module__}.{kind.__qualname__}"
    return None


def _first_forbidden(function: Any, forbidden: dict[int, str], seen: set[int]) -> str | None:
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType) or id(function) in seen:
        return None
    seen.add(id(function))
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    named = [function.__globals__.get(name) for name in _global_names(code)]
    for name in _imported_names(code):
        if name.partition(".")[0] == "llmcourse":
            return name
    for value in [*cells, *named, *(function.__defaults__ or ())]:
        if id(value) in forbidden:
            return forbidden[id(value)]
        if isinstance(value, ModuleType):
            if value.__name__.partition(".")[0] == "llmcourse":
                return value.__name__
            continue
        home = str(getattr(value, "__module__", "") or "")
        if home.partition(".")[0] == "llmcourse" and isinstance(value, FunctionType | type):
            return f"{home}.{value.__qualname__}"
        found = _first_forbidden(value, forbidden, seen)
        if found:
            return found
    return None


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that has not been given a value yet
        return False


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _global_names(code: CodeType) -> list[str]:
    return _named_by(code, {"LOAD_GLOBAL", "LOAD_NAME"})


def _imported_names(code: CodeType) -> list[str]:
    return _named_by(code, {"IMPORT_NAME"})


def _named_by(code: CodeType, operations: set[str]) -> list[str]:
    return [
        str(instruction.argval)
        for part in _nested(code)
        for instruction in dis.get_instructions(part)
        if instruction.opname in operations
    ]
