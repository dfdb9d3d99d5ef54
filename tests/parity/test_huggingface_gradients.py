"""Every published family: the loss and its gradient with respect to every weight."""

from __future__ import annotations

import pytest
import torch

from llmcourse.train.losses import cross_entropy


@pytest.mark.parametrize("implementation", ["naive", "flash"])
def test_loss_and_every_gradient(pair, float64, implementation):
    ids = torch.randint(101, (2, 30))
    ours = pair.ours(dtype=torch.float64, attention=implementation)
    mine = cross_entropy(ours(ids[:, :-1]), ids[:, 1:])
    mine.backward()
    pair.theirs64.zero_grad()
    with float64():
        logits = pair.theirs64(ids[:, :-1]).logits
        wanted = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:])
        wanted.backward()
    assert mine.item() == pytest.approx(wanted.item(), abs=1e-10)
    gradients = pair.mapped({n: p.grad for n, p in pair.theirs64.named_parameters()})
    parameters = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert parameters.keys() == gradients.keys()
    for name, parameter in parameters.items():
        assert gradients[name].abs().max() > 1e-8, name
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-10, msg=name)
