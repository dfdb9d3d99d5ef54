"""What a learner reads."""

from __future__ import annotations

import math

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from llmcourse.grading import check
from llmcourse.grading.core import WIDTH, CheckFailed, NotAttempted, assess
from llmcourse.grading.records import Exercise, exercises, find
from llmcourse.grading.values import difference, show


def wrong_axis(q, k, v):
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=0) @ v


def test_a_right_answer_gets_one_line(learner, capsys):
    assert check("1.3", learner.solution(find("1.3"))) is None
    assert capsys.readouterr().out == "1.3 scaled dot-product attention: right (3 points).\n"
    check("1.9", learner.solution(find("1.9")))
    assert capsys.readouterr().out == "1.9 GELU: right (1 point).\n"


def test_a_wrong_answer_is_told_what_where_and_why():
    with pytest.raises(CheckFailed) as caught:
        check("1.3", wrong_axis)
    message = str(caught.value)
    assert message.startswith("1.3 scaled dot-product attention: not right yet.\n")
    for label in ("what broke:", "smallest case:", "you returned:", "expected:", "likely cause:"):
        assert message.count(label) == 1
    assert "softmax over the query axis" in message
    assert max(len(line) for line in message.splitlines()) <= WIDTH
    assert len(message.splitlines()) <= 12
    assert caught.value.exercise == "1.3"
    assert caught.value.broken == "the output is an average of the values"


def test_the_smallest_failing_input_is_shown():
    """One query attends over one key in the smallest case: there this mistake cannot show."""
    exercise = find("1.3")
    smallest = exercise.inputs(0, 1)
    with pytest.raises(CheckFailed) as caught:
        check("1.3", wrong_axis, seeds=[0])
    assert f"q = {show(smallest[0])}" in " ".join(str(caught.value).split())
    assert f"k = {show(smallest[1])}" in " ".join(str(caught.value).split())


def test_the_same_check_says_the_same(learner):
    messages = set()
    for _ in range(3):
        torch.randn(5)  # wherever the global generator stands
        messages.add(assess(find("2.8"), lambda p, q: p * 2).message)
    assert len(messages) == 1


def test_ipython_shows_the_message_and_no_frames(capsys):
    shell = InteractiveShell.instance()
    shell.user_ns.update(check=check, wrong_axis=wrong_axis)
    shell.run_cell('check("1.3", wrong_axis)', store_history=False)
    shown = capsys.readouterr().out
    assert "likely cause:" in shown
    assert "Traceback" not in shown
    assert "judge.py" not in shown
    assert len(shown.strip().splitlines()) <= 12
    shell.run_cell('check("1.3", None)', store_history=False)
    assert capsys.readouterr().out.strip() == "1.3 scaled dot-product attention: not attempted yet."
    InteractiveShell.clear_instance()


def test_what_the_answer_prints_is_quoted_once():
    def answer(x):
        print("maximum", tuple(x.shape))
        return x

    with pytest.raises(CheckFailed) as caught:
        check("1.2", answer)
    assert str(caught.value).count("you printed:") == 1


def test_none_on_some_inputs_is_a_missing_return(learner):
    solution = learner.solution(find("1.4"))

    def answer(t, s):
        if t == s:
            return solution(t, s)
        return None

    with pytest.raises(CheckFailed, match="a branch that ends without `return`"):
        check("1.4", answer)


def test_generic_relations_are_named():
    def solved(x):
        return x.abs().exp() / x.abs().exp().sum(-1, keepdim=True) * 0 + _softmax(x)

    def _softmax(x):
        powers = (x - x.max(-1, keepdim=True).values).exp()
        return powers / powers.sum(-1, keepdim=True)

    def message(answer):
        return " ".join(assess(find("1.2"), answer).message.split())

    assert "Every number is 2 times what it should be" in message(lambda x: 2 * _softmax(x))
    assert "Every number is off by the same 1" in message(lambda x: _softmax(x) + 1)
    assert "somewhere a tensor was made without dtype" in message(lambda x: _softmax(x).float())
    assert "Right to about six digits" in message(lambda x: _softmax(x).float().double())


def test_a_float32_version_of_a_mistake_is_recognised():
    def answer(q, k, v):
        return wrong_axis(q.float(), k.float(), v.float()).double()

    assert "query axis" in assess(find("1.3"), answer).message


def test_two_mistakes_at_once_are_told_one_by_one():
    def rate(step, peak, warmup_steps, total_steps, floor):
        if step < warmup_steps:
            return peak * step / warmup_steps  # the first mistake
        progress = (step - warmup_steps) / (total_steps - warmup_steps)  # and no end: the second
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    verdict = assess(find("2.5"), rate)
    assert verdict.misconception.startswith("Not the whole story")
    assert "The warm-up starts at 0" in verdict.misconception


def test_a_kindred_error_is_the_same_mistake():
    def loss(logits, targets):
        flat, labels = logits.flatten(0, 1).log_softmax(-1), targets.flatten()
        return -flat[torch.arange(len(labels)), labels].mean()  # an IndexError, not gather's

    message = " ".join(assess(find("2.2"), loss).message.split())
    assert "IndexError" in message
    assert "The label -100 is looked up like a token id" in message

    def typo(logits, targets):
        return lgits.mean()  # noqa: F821

    assert assess(find("2.2"), typo).misconception is None


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no exercise '1\.99'; 1\.1, 1\.2"):
        check("1.99", wrong_axis)
    with pytest.raises(ValueError, match="look like"):
        check("softmax", wrong_axis)
    with pytest.raises(ValueError, match="part 99 has no exercises"):
        exercises(99)


def test_not_a_function():
    with pytest.raises(CheckFailed, match="it must be a function softmax"):
        check("1.2", torch.zeros(2))
    with pytest.raises(NotAttempted):
        check("1.2", ...)


def test_wrong_number_of_arguments():
    with pytest.raises(CheckFailed, match="TypeError"):
        check("1.2", lambda: None)


def test_a_record_is_checked_when_it_is_made():
    good = find("1.2")
    fields = {
        name: getattr(good, name) for name in Exercise.__dataclass_fields__ if name != "arguments"
    }
    with pytest.raises(ValueError, match="difficulty is 1 to 5"):
        Exercise(**{**fields, "difficulty": 6})
    with pytest.raises(ValueError, match="three wrong answers"):
        Exercise(**{**fields, "wrong_answers": good.wrong_answers[:2]})
    with pytest.raises(ValueError, match=r"must look like 1\.3"):
        Exercise(**{**fields, "id": "softmax"})


@pytest.mark.parametrize(
    ("got", "expected", "error"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.2),
        (torch.tensor([-math.inf]), torch.tensor([-math.inf]), 0.0),
        (torch.tensor([math.nan]), torch.tensor([0.0]), math.inf),
        (torch.tensor([math.nan]), torch.tensor([math.nan]), 0.0),
        (torch.tensor([math.inf]), torch.tensor([1.0]), math.inf),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (1.5, 1.0, 0.5),
        (torch.tensor(1.5), 1.0, 0.5),
        (150.0, 100.0, 0.5),
        (3, 3, 0.0),
        (3.0, 3, math.inf),
        (True, 1, math.inf),
        ([1.0, 2.0], (1.0, 2.0), 0.0),
        ([1.0], (1.0, 2.0), math.inf),
        (torch.zeros(2), torch.zeros(3), math.inf),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), math.inf),
        ("text", 1.0, math.inf),
        (None, torch.zeros(1), math.inf),
    ],
)
def test_differences(got, expected, error):
    assert difference(got, expected).error == pytest.approx(error, rel=1e-6)


def test_values_are_shown_without_addresses():
    assert show(torch.tensor([[1.0, 0.123456]])) == "[[1, 0.1235]]"
    assert show((1, [True, 2.5])) == "(1, [True, 2.5])"
    assert show(torch.zeros(5, 5)) == "float32 tensor of shape (5, 5): 0, 0, 0, 0, ..."
    assert show(object()) == "a object"
    assert show(lambda: 0) == "a function"
