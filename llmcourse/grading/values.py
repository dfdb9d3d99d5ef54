"""Comparing, copying and showing the values that answers take and return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

SHOWN = 16  # tensors up to this many numbers are printed whole


@dataclass(frozen=True)
class Difference:
    """How a value differs from the expected one.

    `problem` is a sentence when the kind, the shape or the dtype is wrong (`error` is then inf);
    otherwise `error` is the largest difference, relative to the largest expected magnitude or 1.
    """

    error: float
    problem: str | None = None
    where: str = ""  # the worst entry, for large tensors


def copy(value: Any) -> Any:
    """A deep copy of tensors and containers; functions are shared."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(copy(item) for item in value)
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two values are identical, bit for bit; NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        if a.device.type == "meta":
            return True
        if a.is_floating_point():
            return torch.equal(torch.nan_to_num(a, nan=0.125), torch.nan_to_num(b, nan=0.125))
        return torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if callable(a) or callable(b):
        return a is b
    if type(a) is type(b) and isinstance(a, bool | int | float | str | None):
        return a == b or (a != a and b != b)
    return a is b


def kind(value: Any) -> str:
    """What a value is, in words: "float64 tensor of shape (2, 3)"."""
    if isinstance(value, Tensor):
        name = str(value.dtype).removeprefix("torch.")
        return f"{name} tensor of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    if type(value).__module__ == "numpy" and hasattr(value, "shape"):
        return f"NumPy array of shape {tuple(value.shape)}"
    return type(value).__name__


def difference(got: Any, expected: Any, any_float: bool = False, strict: bool = True) -> Difference:
    """Compare an answer's value with the expected one; `strict` also compares dtypes and kinds."""
    try:
        return _difference(got, expected, any_float, strict)
    except Exception:  # answers return the strangest things, with comparisons of their own
        return Difference(
            math.inf, f"a {kind(got)} came that cannot be compared with {kind(expected)}"
        )


def _difference(got: Any, expected: Any, any_float: bool, strict: bool) -> Difference:
    if isinstance(expected, Tensor):
        return _tensor_difference(got, expected, any_float, strict)
    if isinstance(expected, list | tuple):
        return _sequence_difference(got, expected, any_float, strict)
    if isinstance(got, Tensor) and got.numel() == 1 and isinstance(expected, float):
        got = got.item()  # a 0-dimensional tensor is a fine number
    if isinstance(expected, bool) or isinstance(got, bool) or not isinstance(got, Real):
        return Difference(math.inf, f"a {kind(got)} came, a number was expected")
    if isinstance(expected, Integral) and not isinstance(got, Integral) and strict:
        return Difference(math.inf, f"a {kind(got)} came, a whole number (int) was expected")
    return Difference(_number_error(float(got), float(expected)))


def _number_error(got: float, expected: float) -> float:
    if got == expected or (math.isnan(got) and math.isnan(expected)):
        return 0.0
    error = abs(got - expected) / max(1.0, abs(expected))
    return error if math.isfinite(error) else math.inf


def _sequence_difference(
    got: Any, expected: Sequence[Any], any_float: bool, strict: bool
) -> Difference:
    if not isinstance(got, list | tuple):
        return Difference(math.inf, f"a {kind(got)} came, {len(expected)} values were expected")
    if len(got) != len(expected):
        return Difference(math.inf, f"{len(got)} values came, {len(expected)} were expected")
    worst = Difference(0.0)
    for index, (one, other) in enumerate(zip(got, expected)):
        found = difference(one, other, any_float, strict)
        if found.problem:
            return Difference(math.inf, f"value {index + 1} of {len(expected)}: {found.problem}")
        if found.error > worst.error:
            where = f"value {index + 1}{', ' + found.where if found.where else ''}"
            worst = Difference(found.error, None, where)
    return worst


def _tensor_difference(got: Any, expected: Tensor, any_float: bool, strict: bool) -> Difference:
    if not isinstance(got, Tensor):
        return Difference(math.inf, f"a {kind(got)} came, a torch.Tensor was expected")
    if got.shape != expected.shape:
        return Difference(
            math.inf, f"shape {tuple(got.shape)} came, {tuple(expected.shape)} was expected"
        )
    accepted = got.dtype == expected.dtype or (
        any_float and got.is_floating_point() and expected.is_floating_point()
    )
    if got.is_complex() or (strict and not accepted):
        names = [str(dtype).removeprefix("torch.") for dtype in (got.dtype, expected.dtype)]
        return Difference(math.inf, f"dtype {names[0]} came, {names[1]} was expected")
    if expected.numel() == 0:
        return Difference(0.0)
    one, other = got.detach().to(torch.float64), expected.detach().to(torch.float64)
    equal = (one == other) | (one.isnan() & other.isnan())  # infinities compare equal here
    finite = other[other.isfinite()]
    scale = max(1.0, finite.abs().max().item() if finite.numel() else 1.0)
    error = torch.where(equal, 0.0, (one - other).abs() / scale)
    error = torch.where(error.isnan(), math.inf, error).reshape(-1)
    # One outlier in a large tensor is easier to find with its index.
    position = int(error.argmax())
    index = []
    for size in reversed(expected.shape):
        index.append(position % size)
        position //= size
    where = f"at index {tuple(reversed(index))}" if expected.ndim else ""
    return Difference(float(error.max()), None, where)


def numbers(value: Any) -> list[float]:
    """All numbers in a value, flat, as floats; what is not a number is left out."""
    if isinstance(value, Tensor):
        if value.is_complex() or value.device.type == "meta":
            return []
        return value.detach().to(torch.float64).reshape(-1).tolist()
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    if hasattr(value, "tolist") and not isinstance(value, str):
        return numbers(value.tolist())
    return [float(value)] if isinstance(value, Real) else []


def show(value: Any, digits: int = 4) -> str:
    """A value in one short line; large tensors by kind and their first numbers."""
    try:
        return _show(value, digits)
    except Exception:  # a repr of its own that fails, a tensor without data
        return f"a {kind(value)}"


def _show(value: Any, digits: int) -> str:
    if isinstance(value, Tensor):
        if value.numel() <= SHOWN:
            return _nested(value.detach().tolist(), digits)
        head = ", ".join(_number(x, digits) for x in value.detach().reshape(-1)[:4].tolist())
        return f"{kind(value)}: {head}, ..."
    if isinstance(value, list | tuple):
        if len(value) > SHOWN:
            return f"{kind(value)}: {', '.join(show(item, digits) for item in value[:4])}, ..."
        left, right = ("[", "]") if isinstance(value, list) else ("(", ")")
        return left + ", ".join(show(item, digits) for item in value) + right
    if isinstance(value, bool | int | float):
        return _number(value, digits)
    if callable(value):
        return "a function"
    text = repr(value)
    # A default repr carries a memory address: different every time, and of no use to a reader.
    if " at 0x" in text:
        return f"a {kind(value)}"
    return text if len(text) <= 60 else text[:57] + "..."


def _nested(value: Any, digits: int) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(item, digits) for item in value) + "]"
    return _number(value, digits)


def _number(value: float | int | bool, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{max(digits, 6 if abs(value) >= 1e4 else 0)}g}"
    return str(value)
