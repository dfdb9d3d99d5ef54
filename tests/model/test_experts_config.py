"""The record of a mixture of experts: defaults, capacity, and every impossible value refused."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest

from llmcourse.model.experts_config import CHOICES, Experts

NAN, INF = float("nan"), float("inf")
# What may change under trained weights, said here a second time.
FREE = {"bias_rate", "capacity", "balance_weight", "balance_over", "z_weight"}
FREE |= {"importance_weight", "dispatch"}
# Another value for every field; the second entry is what must change with it.
OTHERS = {
    "n_experts": (6, {}),
    "n_active": (3, {}),
    "d_ff": (9, {}),
    "n_shared": (1, {}),
    "score": ("sigmoid", {}),
    "renormalise": (False, {}),
    "scale": (2.5, {}),
    "choice": ("expert", {}),
    "noise": (True, {}),
    "selection_bias": (True, {}),
    "bias_rate": (0.1, {}),
    "n_groups": (2, {"n_active_groups": 1}),
    "n_active_groups": (2, {"n_groups": 2}),
    "group_score": ("best", {}),
    "capacity": (1.25, {}),
    "layers": ((1,), {}),
    "dense_branch": (True, {}),
    "balance_weight": (0.5, {}),
    "balance_over": ("sequence", {}),
    "z_weight": (1e-3, {}),
    "importance_weight": (0.1, {}),
    "dispatch": ("loop", {}),
}


def test_only_two_numbers_must_be_said():
    plain = Experts(4, 2)
    assert plain == Experts(n_experts=4, n_active=2)
    for field in dataclasses.fields(Experts)[2:]:
        assert getattr(plain, field.name) == field.default
    assert plain.renormalise and plain.score == "softmax" and plain.capacity is None


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experts(4, 2).n_active = 3


def test_extremes_are_possible():
    Experts(1, 1)
    Experts(5, 5)
    Experts(6, 6, n_groups=3, n_active_groups=3)
    Experts(6, 2, n_groups=6, n_active_groups=2)
    Experts(4, 2, capacity=1e-9, balance_weight=0, bias_rate=0.0)


def test_lists_of_layers_become_tuples():
    experts = Experts(4, 2, layers=[0, 2])
    assert experts.layers == (0, 2) and experts == Experts(4, 2, layers=(0, 2))
    assert hash(experts) == hash(Experts(4, 2, layers=(0, 2)))
    assert [experts.is_sparse(layer) for layer in range(4)] == [True, False, True, False]
    assert all(Experts(4, 2).is_sparse(layer) for layer in range(4))


@pytest.mark.parametrize("field", ["n_experts", "n_active", "n_groups", "n_active_groups"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", None, True])
def test_counts_are_whole_numbers(field, value):
    with pytest.raises(
        ValueError, match=f"experts {field}={value!r} must be a whole number of at least 1"
    ):
        Experts(**{"n_experts": 4, "n_active": 2} | {field: value})


@pytest.mark.parametrize("field", CHOICES)
def test_choices(field):
    for value in CHOICES[field]:
        assert getattr(Experts(4, 2, **{field: value}), field) == value
    with pytest.raises(ValueError) as refused:
        Experts(4, 2, **{field: "softmx"})
    assert str(refused.value) == (
        f"experts {field}='softmx' is unknown; choose one of {list(CHOICES[field])}"
    )


@pytest.mark.parametrize("field", ["renormalise", "noise", "selection_bias", "dense_branch"])
@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_switches(field, value):
    with pytest.raises(ValueError, match=f"experts {field}.* must be True or False"):
        Experts(4, 2, **{field: value})


@pytest.mark.parametrize("field", ["balance_weight", "z_weight", "importance_weight", "bias_rate"])
@pytest.mark.parametrize("value", [-1e-9, NAN, INF, "1", None, True])
def test_weights_of_losses(field, value):
    with pytest.raises(ValueError, match=f"experts {field}={value!r} must be a number at least 0"):
        Experts(4, 2, **{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"n_active": 5},
            "experts n_active=5 is more than n_experts=4; a token cannot take more experts than "
            "there are: choose 1 to 4",
        ),
        ({"d_ff": 0}, "experts d_ff=0 must be a whole number of at least 1"),
        ({"d_ff": 1.5}, "experts d_ff=1.5 must be a whole number of at least 1"),
        ({"n_shared": -1}, "experts n_shared=-1 must be a whole number of at least 0"),
        ({"n_shared": True}, "experts n_shared=True must be a whole number of at least 0"),
        ({"scale": 0}, "experts scale=0 must be a number above 0"),
        ({"scale": NAN}, "experts scale=nan must be a number above 0"),
        ({"scale": None}, "experts scale=None must be a number above 0"),
        ({"capacity": 0}, "experts capacity=0 must be a number above 0, or None for no limit"),
        ({"capacity": 0.0}, "experts capacity=0.0 must be a number above 0, or None for no limit"),
        ({"capacity": -1}, "experts capacity=-1 must be a number above 0, or None for no limit"),
        ({"capacity": NAN}, "experts capacity=nan must be a number above 0, or None for no limit"),
        ({"capacity": INF}, "experts capacity=inf must be a number above 0, or None for no limit"),
        ({"capacity": "1"}, "experts capacity='1' must be a number above 0, or None for no limit"),
        (
            {"capacity": True},
            "experts capacity=True must be a number above 0, or None for no limit",
        ),
        *(
            (
                {"layers": layers},
                f"experts layers={layers!r} must be different whole numbers in rising order, for "
                f"example (1, 3, 5), or None for every layer",
            )
            for layers in ((), (1, 1), (2, 1), (0.0, 1), (True,), ("0",), 2, "12", (None,))
        ),
        ({"layers": (-1, 0)}, "experts layers=(-1, 0): layers count from 0"),
        (
            {"n_groups": 3},
            "experts n_groups=3 does not divide n_experts=4: choose one of [1, 2, 4]",
        ),
        (
            {"n_groups": 5},
            "experts n_groups=5 does not divide n_experts=4: choose one of [1, 2, 4]",
        ),
        (
            {"n_groups": 2, "n_active_groups": 3},
            "experts n_active_groups=3 is more than n_groups=2: choose 1 to 2",
        ),
        (
            {"n_active": 3, "n_groups": 2},
            "experts n_active=3 is more than the 2 experts in n_active_groups=1 groups of 2",
        ),
        *(
            (
                {"choice": "expert", name: value},
                f'experts {name}={value!r} has no meaning with choice="expert", where every expert '
                f"takes equally many tokens; leave it {plain}",
            )
            for name, value, plain in (
                ("selection_bias", True, False),
                ("noise", True, False),
                ("capacity", 1.5, None),
                ("n_groups", 2, 1),
            )
        ),
    ],
)
def test_impossible_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError) as refused:
        Experts(**{"n_experts": 4, "n_active": 2} | changes)
    assert str(refused.value) == message


@pytest.mark.parametrize("capacity", [0.25, 0.5, 1.0, 1.1, 1.25, 1.3, 2.0, 7])
def test_capacity_is_rounded_up(capacity):
    """In whole arithmetic: 1.1 times 50 is 55, though in floating point it is a little more."""
    for n_experts, n_active in ((1, 1), (3, 2), (4, 2), (5, 5), (64, 6)):
        experts = Experts(n_experts, n_active, capacity=capacity)
        for tokens in (1, 2, 7, 64, 100, 4096, 1_000_000):
            exact = Fraction(str(capacity)) * tokens * n_active / n_experts
            assert experts.expert_capacity(tokens) == math.ceil(exact), (tokens, n_experts)


def test_no_capacity_is_no_limit():
    assert Experts(4, 2).expert_capacity(100) is None
    assert Experts(4, 2, capacity=1.0).expert_capacity(0) == 0


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Experts)])
def test_what_changes_no_weight(field):
    """A field that is new must be thought about here: it has no entry in OTHERS."""
    value, beside = OTHERS[field]
    one = Experts(4, 2, **{k: v for k, v in beside.items() if v != 1})
    other = one.replace(**{field: value} | beside)
    assert getattr(other, field) == value != getattr(one, field)
    assert one.same_weights(other) == other.same_weights(one) == (field in FREE)
    assert one.same_weights(one)


def test_replace():
    experts = Experts(4, 2, layers=(1,)).replace(n_active=3, layers=None)
    assert experts == Experts(4, 3)
    with pytest.raises(ValueError, match=r"n_active=9 is more than n_experts=4"):
        experts.replace(n_active=9)
    with pytest.raises(ValueError) as refused:
        experts.replace(n_expert=3)
    assert str(refused.value) == "experts has no field 'n_expert'; did you mean 'n_experts'?"
    with pytest.raises(ValueError, match=r"no field 'zzz'; known: n_experts, n_active, d_ff"):
        experts.replace(zzz=3)
