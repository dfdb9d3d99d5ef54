"""Right answers pass, known mistakes get their own diagnosis, tricks get nowhere."""

from __future__ import annotations

import inspect
import math
from copy import deepcopy

import pytest
import torch

from llmcourse.grading import diagnosis
from llmcourse.grading.core import assess, check
from llmcourse.grading.guard import resolve
from llmcourse.grading.records import PARTS, CheckFailed, NotAttempted, exercises
from llmcourse.grading.values import copy, difference, same

ALL = [exercise for part in PARTS for exercise in exercises(part)]
BY_ID = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
MISTAKES = pytest.mark.parametrize(
    ("exercise", "wrong"),
    [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong_answers],
    ids=lambda value: getattr(value, "id", None) or value.name.replace(" ", "-"),
)
SEEDS = range(50)


def test_each_part_has_enough_exercises():
    for part in PARTS:
        found = exercises(part)
        assert len(found) >= 8
        assert [e.id for e in found] == [f"{part}.{n + 1}" for n in range(len(found))]
        assert len({e.name for e in found}) == len(found)


@BY_ID
def test_the_solution_in_the_notebook_passes(exercise, learner):
    solution = learner.solution(exercise)
    verdict = assess(exercise, solution, SEEDS)
    assert verdict.status == "passed", verdict.message
    shown = str(inspect.signature(solution)).replace("torch.", "").replace("'", "")
    assert f"{exercise.name}{shown}" == exercise.signature


@BY_ID
def test_right_answers_written_differently_pass(exercise, learner):
    for alternative in exercise.alternatives:
        verdict = assess(exercise, learner(alternative), SEEDS)
        assert verdict.status == "passed", verdict.message


@MISTAKES
def test_a_known_mistake_gets_its_own_diagnosis(exercise, wrong, learner):
    answer = learner(wrong.function)
    for seed in SEEDS:
        verdict = assess(exercise, answer, [seed])
        assert verdict.status == "failed", f"passed with seed {seed}"
        assert verdict.misconception == wrong.diagnosis, verdict.message
        assert verdict.error >= 100 * exercise.tolerance, verdict.message


@BY_ID
def test_no_mistake_is_nearly_right(exercise):
    """On every input a wrong answer is either right or wrong by far: never near the tolerance."""
    assert exercise.tolerance > 0
    for seed in range(5):
        for size in range(exercise.sizes):
            arguments = exercise.inputs(seed, size)
            expected = exercise.oracle(*copy(arguments))
            for wrong in exercise.wrong_answers:
                try:
                    got = wrong.function(*copy(arguments))
                except Exception:
                    continue
                error = difference(got, expected, exercise.any_float).error
                near = exercise.tolerance < error < 100 * exercise.tolerance
                assert not near, (wrong.name, seed, size, error)


@BY_ID
def test_diagnoses_are_sentences_of_their_own(exercise):
    assert len(exercise.wrong_answers) >= 3
    names = [wrong.name for wrong in exercise.wrong_answers]
    assert len(set(names)) == len(names)
    assert len({wrong.diagnosis for wrong in exercise.wrong_answers}) >= 3
    for wrong in exercise.wrong_answers:
        assert 30 <= len(wrong.diagnosis) <= 300
        assert wrong.diagnosis.rstrip(")").endswith(".")


@BY_ID
def test_inputs_are_the_same_every_time_and_leave_the_global_state_alone(exercise, learner):
    before = torch.get_rng_state()
    for size in range(exercise.sizes):
        one, two = exercise.inputs(3, size), exercise.inputs(3, size)
        assert len(one) == len(exercise.arguments)
        assert all(same(a, b) for a, b in zip(one, two) if not callable(a))
    assess(exercise, learner.solution(exercise), [0])
    assert torch.equal(torch.get_rng_state(), before)


@BY_ID
def test_forbidden_names_exist(exercise):
    for name in exercise.forbidden:
        resolve(name)


# What nobody should get away with, whatever the exercise ---------------------------------------


def _like(value, number):
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, number)
    if isinstance(value, list | tuple):
        return type(value)(_like(item, number) for item in value)
    return type(value)(number)


def _same(a, b):
    # The course's own comparison is out of bounds while an answer runs.
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    return a == b


def _outputs(exercise, arguments):
    return exercise.oracle(*copy(arguments))


@BY_ID
def test_the_stub_is_not_attempted(exercise):
    def stub(*arguments):
        raise NotImplementedError("your code here")

    for answer in (stub, None, ..., lambda *arguments: None, lambda *arguments: ...):
        assert assess(exercise, answer, [0]).status == "not attempted"
        with pytest.raises(NotAttempted, match=exercise.id):
            check(exercise.id, answer, seeds=[0])


@BY_ID
def test_zeros_are_rejected(exercise, learner):
    solution = learner.solution(exercise)
    verdict = assess(exercise, lambda *a: _like(solution(*a), 0), [0, 1])
    assert verdict.status == "failed"
    assert verdict.misconception == diagnosis.ZEROS or _is_a_known_mistake(exercise, verdict)


@BY_ID
def test_a_constant_is_rejected(exercise):
    fixed = _outputs(exercise, exercise.inputs(7, 4))
    verdict = assess(exercise, lambda *a: deepcopy(fixed), [0, 1])
    assert verdict.status == "failed"
    assert verdict.misconception == diagnosis.CONSTANT


@BY_ID
def test_a_memorised_example_is_rejected(exercise, learner):
    solution = learner.solution(exercise)
    example = exercise.examples[0]
    expected = _outputs(exercise, example)

    def always(*arguments):
        return deepcopy(expected)

    def looked_up(*arguments):
        if all(_same(a, b) for a, b in zip(arguments, example)):
            return deepcopy(expected)
        return None

    def looked_up_or_zeros(*arguments):
        if all(_same(a, b) for a, b in zip(arguments, example)):
            return deepcopy(expected)
        return _like(solution(*arguments), 0)

    for answer in (always, looked_up, looked_up_or_zeros):
        verdict = assess(exercise, answer, [0, 1])
        assert verdict.status == "failed"
        assert verdict.misconception == diagnosis.MEMORISED, verdict.message


def _is_a_known_mistake(exercise, verdict):
    return verdict.misconception in {wrong.diagnosis for wrong in exercise.wrong_answers}


@BY_ID
def test_changing_an_argument_is_rejected(exercise, learner):
    solution = learner.solution(exercise)

    def spoil(value):
        if isinstance(value, torch.Tensor) and value.numel():
            value[...] = value + 1
            return True
        if isinstance(value, list):
            if value and isinstance(value[0], torch.Tensor):
                return spoil(value[0])
            value.append(value[0])
            return True
        return False

    def answer(*arguments):
        result = deepcopy(solution(*arguments))
        any(spoil(argument) for argument in arguments)
        return result

    verdict = assess(exercise, answer, [0])
    if any(isinstance(argument, torch.Tensor | list) for argument in exercise.inputs(0, 0)):
        assert verdict.status == "failed"
        assert verdict.broken == "the arguments are left as they were"
        assert "is different after the call" in verdict.message
    else:  # only numbers and functions come in, which cannot be changed
        assert exercise.id in {"1.1", "1.4", "1.11", "2.5", "3.6", "3.7", "4.4", "4.10", "5.3"}
        assert verdict.status == "passed"


@BY_ID
def test_handing_an_argument_back_is_rejected(exercise):
    for position in range(len(exercise.arguments)):
        verdict = assess(exercise, lambda *a, i=position: a[i], [0, 1])
        assert verdict.status == "failed"
        value = exercise.inputs(0, 3)[position]
        if isinstance(value, torch.Tensor | list):
            assert "hands back its argument" in verdict.message or _is_a_known_mistake(
                exercise, verdict
            )


@BY_ID
def test_wrong_kinds_of_result_are_rejected(exercise, learner):
    solution = learner.solution(exercise)

    def first(value, change):
        if isinstance(value, list | tuple):
            return type(value)([change(value[0]), *value[1:]])
        return change(value)

    def broken(change):
        return assess(exercise, lambda *a: first(solution(*a), change), [0])

    sample = _outputs(exercise, exercise.inputs(0, 2))
    inner = sample[0] if isinstance(sample, list | tuple) else sample
    kind = "the result has the right kind, shape and dtype"
    assert broken(str).broken == kind
    assert broken(lambda x: [x]).broken == kind
    assert broken(lambda x: {"result": x}).broken == kind
    assert broken(lambda x: object()).broken == kind
    if isinstance(inner, torch.Tensor):
        assert broken(lambda x: x[None]).broken == kind
        assert broken(lambda x: x.numpy()).broken == kind
        assert broken(lambda x: x.tolist()).broken == kind
        assert broken(lambda x: x.to("meta")).broken == kind
        assert broken(lambda x: x.to(torch.complex128)).broken == kind
        if not exercise.any_float:
            verdict = broken(lambda x: x.to(torch.float16))
            assert verdict.broken == kind
            assert "dtype float16 came" in verdict.message
    if (isinstance(inner, torch.Tensor) and inner.is_floating_point()) or isinstance(inner, float):
        verdict = broken(lambda x: x * math.nan)
        assert verdict.broken == "the result holds no NaN"


@BY_ID
def test_an_error_in_the_answer_is_reported_with_its_line(exercise):
    def answer(*arguments):
        missing = {}
        return missing["not there"]

    with pytest.raises(CheckFailed) as caught:
        check(exercise.id, answer, seeds=[0])
    assert "KeyError: 'not there'" in str(caught.value)
    assert "in answer: return missing" in str(caught.value)
    assert "site-packages" not in str(caught.value)


@BY_ID
def test_chance_and_memory_are_rejected(exercise, learner):
    solution = learner.solution(exercise)
    calls = []

    def tired(*arguments):
        calls.append(1)
        if len(calls) > exercise.sizes + len(exercise.examples):
            return None
        return solution(*arguments)

    verdict = assess(exercise, tired, [0])
    assert verdict.broken == "the same input always gives the same result"
