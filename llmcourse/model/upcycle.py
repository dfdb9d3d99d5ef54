"""Upcycling: a trained dense model becomes a mixture of experts and goes on from there.

Taught in Part 5. Every expert starts as a copy of the layer's feed-forward network. Whatever the
router decides, a token's output is then that network's, K times with weights that sum to 1: the
first outputs are the dense model's, and the experts part ways as they are trained on other tokens.

With a dense branch the old network stays where it is, and the experts beside it begin with outputs
of zero.

Source: Komatsuzaki et al. 2022, arXiv 2212.05055, section 3. Deviation: the router's weights are
normalised over the chosen experts, as in Mixtral, so that no output changes; there only the sum
over all experts is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.model.experts_config import Experts
from llmcourse.model.transformer import Transformer


@torch.no_grad()
def upcycle(
    model: Transformer, experts: Experts, generator: torch.Generator | None = None
) -> Transformer:
    """A mixture of experts with the outputs of a dense model.

    Args:
        model: dense; left as it is, nothing is shared with it.
        experts: of which layers, how many; their width must be the model's d_ff, or None.
        generator: of the routers' initial weights.

    Returns:
        A `Transformer` whose logits equal the model's up to rounding.

    Raises:
        ValueError: a model that has experts already, or a choice under which the first outputs
            could not be the same; the field is named.
    """
    config = model.config
    if config.experts is not None:
        raise ValueError("the model is a mixture of experts already; upcycling begins with a dense")
    _check(experts, config.d_ff)
    sparse = Transformer(config.replace(experts=experts), generator)
    dtype, device = model.embedding.weight.dtype, model.embedding.weight.device
    sparse.to(device=device, dtype=dtype)
    ours = dict(sparse.named_parameters())
    for name, tensor in model.named_parameters():
        block, _, leaf = name.partition(".feed_forward.")
        if not leaf or not sparse.config.is_sparse(int(block.removeprefix("blocks."))):
            ours[name].copy_(tensor)
        elif experts.dense_branch:
            ours[f"{block}.feed_forward.dense.{leaf}"].copy_(tensor)
        else:
            ours[f"{block}.feed_forward.experts.{_stacked(leaf)}"].copy_(tensor)  # to all E
    if experts.dense_branch:
        for name, tensor in ours.items():
            if name.endswith((".experts.down", ".experts.down_bias")):
                tensor.zero_()
    for name, table in model._fixed_table():
        sparse.get_buffer(name).copy_(table)
    return sparse.train(model.training)


def _stacked(leaf: str) -> str:
    """The stack's name for a dense network's parameter: "gate_up.weight" -> "up"."""
    layer, kind = leaf.split(".")
    return {"gate_up": "up"}.get(layer, layer) + ("_bias" if kind == "bias" else "")


def _check(experts: Experts, d_ff: int) -> None:
    if experts.dense_branch:
        return  # whatever the experts are, they begin with outputs of zero
    wanted: dict[str, tuple[object, ...]] = {
        "d_ff": (None, d_ff),
        "n_shared": (0,),
        "renormalise": (True,),
        "scale": (1.0,),
        "choice": ("token",),
        "capacity": (None,),
    }
    for name, allowed in wanted.items():
        value = getattr(experts, name)
        if value not in allowed:
            raise ValueError(
                f"experts {name}={value!r} would change the first outputs; upcycling needs "
                f"{name}={allowed[0]!r}, or dense_branch=True"
            )


def experts_apart(sparse: Transformer) -> Tensor:
    """(sparse layers,) how far the experts of each layer have parted: mean distance of an expert's
    matrices from their mean over experts, as a share of the mean's size. 0 right after upcycling.
    """
    apart = []
    for block in sparse.blocks:
        if block.sparse:
            up = block.feed_forward.experts.up.detach().double().flatten(1)  # (E, numbers)
            mean = up.mean(0)
            apart.append((up - mean).norm(dim=1).mean() / mean.norm())
    return torch.stack(apart)
