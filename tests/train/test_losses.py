"""Cross-entropy against its definition in Python floats and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from llmcourse.train import bits_per_byte, cross_entropy, perplexity
from llmcourse.train.losses import cross_entropy_reference


def by_hand(logits, targets):
    """-log p of each target, in plain floats; None where ignored."""
    out = []
    for row, target in zip(logits.reshape(-1, logits.shape[-1]).tolist(), targets.flatten()):
        if target == -100:
            out.append(None)
            continue
        highest = max(row)
        total = math.fsum(math.exp(x - highest) for x in row)
        out.append(highest + math.log(total) - row[int(target)])
    return out


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 7, 5), (3, 1, 5), (2, 9, 33), (4, 5)])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_equals_the_definition_and_torch_gradients_included(shape, ignored):
    logits = (torch.randn(shape, dtype=torch.float64) * 4).requires_grad_()
    targets = torch.randint(shape[-1], shape[:-1])
    targets[torch.rand(shape[:-1]) < ignored] = -100
    targets.view(-1)[0] = 0
    parts = by_hand(logits, targets)
    kept = [x for x in parts if x is not None]

    mean, total = cross_entropy(logits, targets), cross_entropy(logits, targets, reduction="sum")
    each = cross_entropy(logits, targets, reduction="none")
    assert mean.item() == pytest.approx(math.fsum(kept) / len(kept), abs=1e-12)
    assert total.item() == pytest.approx(math.fsum(kept), abs=1e-11)
    assert each.shape == targets.shape
    assert each.flatten().tolist() == pytest.approx([x or 0.0 for x in parts], abs=1e-12)
    assert cross_entropy_reference(logits, targets).item() == pytest.approx(mean.item(), abs=1e-12)

    wanted = F.cross_entropy(logits.reshape(-1, shape[-1]), targets.reshape(-1))
    slopes = [
        torch.autograd.grad(loss, logits)[0]
        for loss in (mean, cross_entropy_reference(logits, targets), wanted)
    ]
    for slope in slopes[:2]:
        torch.testing.assert_close(slope, slopes[2], rtol=0, atol=1e-13)
    assert (slopes[0][targets == -100] == 0).all()


def test_the_gradient_is_probability_minus_truth():
    logits = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[2, 0, -100]])
    cross_entropy(logits, targets).backward()
    wanted = logits.detach().softmax(-1)
    wanted[0, 0, 2] -= 1
    wanted[0, 1, 0] -= 1
    wanted[0, 2] = 0
    torch.testing.assert_close(logits.grad, wanted / 2, rtol=0, atol=1e-14)


def test_ignored_targets_do_not_dilute_the_mean():
    logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    alone = cross_entropy(logits[:1], targets[:1])
    targets[1] = -100
    assert cross_entropy(logits, targets).item() == pytest.approx(alone.item(), abs=1e-6)


def test_another_ignore_index():
    logits, targets = torch.randn(1, 3, 5), torch.tensor([[1, 0, 4]])
    wanted = cross_entropy(logits[:, ::2], targets[:, ::2]).item()
    assert cross_entropy(logits, targets, ignore_index=0).item() == pytest.approx(wanted)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    for target, wanted in ((0, 0.0), (1, 1e4), (2, 2e4)):
        targets = torch.tensor([[target]])
        assert cross_entropy(logits, targets).item() == pytest.approx(wanted)
        assert cross_entropy_reference(logits, targets).item() == pytest.approx(wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_summed_in_float32(dtype):
    logits = (torch.randn(4, 8, 256) * 3).to(dtype)
    targets = torch.randint(256, (4, 8))
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    exact = cross_entropy(logits.double(), targets).item()
    assert loss.item() == pytest.approx(exact, abs=2e-6)
    leaf = logits.detach().requires_grad_()
    cross_entropy(leaf, targets).backward()
    assert leaf.grad.dtype == dtype


def test_int32_targets():
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    targets[0, 0] = -100
    assert torch.equal(cross_entropy(logits, targets.int()), cross_entropy(logits, targets))


def test_uniform_logits_cost_ln_v():
    loss = cross_entropy(torch.zeros(2, 3, 256), torch.randint(256, (2, 3)))
    assert loss.item() == pytest.approx(math.log(256), abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ((2, 3, 5), torch.zeros(2, 4).long(), r"must agree, got \(2, 3, 5\) and \(2, 4\)"),
        ((2, 3, 5), torch.zeros(6).long(), r"must agree, got \(2, 3, 5\) and \(6,\)"),
        (
            (1, 2, 5),
            torch.tensor([[1, 5]]),
            r"target 5 is neither in \[0, 5\) nor ignore_index",
        ),
        ((1, 2, 5), torch.tensor([[-1, 2]]), r"target -1 is neither in \[0, 5\)"),
        ((1, 2, 5), torch.tensor([[-100, -100]]), r"every target is ignored, so there is no loss"),
        ((1, 0, 5), torch.zeros(1, 0).long(), r"every target is ignored"),
        (
            (1, 2, 5),
            torch.tensor([[1.0, 2.0]]),
            r"targets must be whole numbers, got torch.flo",
        ),
    ],
)
def test_bad_input_is_named(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(torch.zeros(logits), targets)


def test_nothing_to_score_sums_to_zero():
    loss = cross_entropy(torch.zeros(1, 2, 5), torch.full((1, 2), -100), reduction="sum")
    assert loss.item() == 0


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(256)) == pytest.approx(256)
    assert perplexity(1e4) == math.inf


def test_bits_per_byte():
    assert bits_per_byte(8 * math.log(2), 1) == pytest.approx(8)
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8)
    # Two tokenizers, the same text and the same total surprise: one number.
    assert bits_per_byte(30.0, 12) == pytest.approx(30 / 12 / math.log(2))
    with pytest.raises(ValueError, match="n_bytes=0: bits per byte need a text of at least one"):
        bits_per_byte(1.0, 0)
