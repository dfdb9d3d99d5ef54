"""Cross-entropy straight from the hidden states, without ever holding all the logits.

Taught in Part 4. The logits of a batch are its largest tensor by far: V numbers per token where a
hidden state has C, and the plain way keeps them several times over (scores, probabilities,
gradients). Here the tokens are taken a chunk at a time. A chunk's logits are made, give its loss,
turn in place into their own gradient, give the gradients of hidden states and matrix, and make room
for the next chunk's:

    z = h Wᵀ        loss = log Σ exp(z) - z[target]        dz = softmax(z) - 1[target]
                    dh = dz W        dW = Σ dzᵀ h

So the forward pass computes the gradients too, since the loss is the last thing there is and its
own gradient one number, by which the backward pass multiplies them. Kept in between are dh and dW,
as large as h and W.

The softmax is Vaswani et al. 2017, arXiv 1706.03762, section 3.4; the soft cap of the logits is
Gemma 2's (arXiv 2408.00118, section 2). The z-loss is from Chowdhery et al. 2022, "PaLM", section
5: z_loss · log² Σ exp(z) per token keeps the logits from drifting away together.

Deviations from computing `cross_entropy(model.logits(hidden), targets)`: tokens whose target is
ignored cost nothing; under autocast the soft cap is applied in float32, and the gradient of the
matrix is summed over the chunks in float32. In float16 the products that make gradients are
computed in float32: most entries of softmax(z) are below what float16 can hold, and no loss scale
has been applied to them yet. All gradients are for the sum of the losses until the backward pass.

Shapes: N tokens that count, n of them in one chunk, C model width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcourse.data.batches import IGNORE_INDEX, Batch
from llmcourse.train.losses import check_targets

if TYPE_CHECKING:
    from llmcourse.model import Transformer


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk_tokens: int = 1024,
    reduction: str = "mean",
) -> Tensor:
    """`cross_entropy` of the logits `hidden @ weight.T`, differentiable once.

    Args:
        hidden: (B, T, C), or any leading dimensions: the residual stream after the last norm.
        weight: (V, C), the output matrix; in the dtype of `hidden` except under autocast.
        targets: (B, T) the token that came next, or `ignore_index`.
        ignore_index: a target that does not count.
        softcap: logits become softcap · tanh(logits / softcap).
        z_loss: weight of the squared log of the softmax's denominator; 0 leaves it out.
        chunk_tokens: tokens whose logits are held together: chunk_tokens · V numbers.
        reduction: "mean" over the targets that count, or "sum".

    Returns:
        Nats, plus the z-loss; a scalar in float32, or float64 for float64 inputs.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, targets that are not whole numbers or
            outside the vocabulary, or nothing to learn from (every target ignored): its mean would
            be 0 / 0.
    """
    _check_sizes(hidden, weight, softcap, z_loss, chunk_tokens, reduction)
    counts = _check_targets(hidden, weight, targets, ignore_index, reduction)
    rows = counts.flatten().nonzero()[:, 0]  # (N,) where the tokens that count stand
    differentiate = torch.is_grad_enabled()
    total = _ChunkedLoss.apply(
        hidden.reshape(-1, hidden.shape[-1]),  # (B, T, C) -> (B * T, C)
        weight,
        targets.flatten()[rows].long(),
        rows,
        (softcap, z_loss, chunk_tokens),
        # Asked here because inside a Function gradients are always switched off.
        (differentiate and hidden.requires_grad, differentiate and weight.requires_grad),
    )
    return total / len(rows) if reduction == "mean" else total


def chunked_next_token_loss(model: Transformer, batch: Batch, chunk_tokens: int = 1024) -> Tensor:
    """`next_token_loss` for the training loop, without ever holding all the logits.

    The matrix is the embedding table where the model ties the two, and its head otherwise. Packed
    rows bring their documents.
    """
    weight = model.embedding.weight if model.head is None else model.head.weight
    hidden = model.hidden(batch.inputs, documents=getattr(batch, "documents", None))  # (B, T, C)
    return chunked_cross_entropy(
        hidden,
        weight,
        batch.targets,
        softcap=model.config.logit_softcap,
        chunk_tokens=chunk_tokens,
    )


class _ChunkedLoss(torch.autograd.Function):
    """Sum of the losses; the gradients of that sum are made on the way and saved."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (B * T, C)
        weight: Tensor,  # (V, C)
        targets: Tensor,  # (N,)
        rows: Tensor,  # (N,)
        settings: tuple[float | None, float, int],
        wanted: tuple[bool, bool],
    ) -> Tensor:
        softcap, z_loss, chunk_tokens = settings
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)  # for sums
        backward_dtype = wide if dtype == torch.float16 else dtype  # see the module's deviations
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)  # (V, C)
            backward_matrix = weight.to(backward_dtype) if wanted[0] else None
            total = torch.zeros((), dtype=wide, device=hidden.device)
            keep = wide if hidden.dtype == torch.float16 else hidden.dtype
            d_hidden = torch.zeros_like(hidden, dtype=keep) if wanted[0] else None
            d_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
            for start in range(0, len(rows), chunk_tokens):
                chunk = rows[start : start + chunk_tokens]  # (n,)
                h = hidden[chunk].to(dtype)  # (n, C)
                loss, slope = _loss_and_slope(
                    (h @ matrix.T).to(wide),  # (n, V)
                    targets[start : start + chunk_tokens],
                    softcap,
                    z_loss,
                    any(wanted),
                )
                total += loss
                if slope is None:
                    continue
                slope = slope.to(backward_dtype)
                if d_hidden is not None:
                    d_hidden[chunk] = (slope @ backward_matrix).to(keep)
                if d_weight is not None:
                    _add_product(d_weight, slope.T, h.to(backward_dtype))
                # Or the next chunk's logits would be made while these still stand.
                del slope
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        # Out of place: a graph that is kept may be walked twice.
        gradients = [
            None if saved is None else (saved * d_total).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        return *gradients, None, None, None, None


def _loss_and_slope(
    z: Tensor, targets: Tensor, softcap: float | None, z_loss: float, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss of one chunk, summed, and its gradient by the logits before the soft cap.

    Args:
        z: (n, V) float32 or float64; overwritten, because a second tensor of its size would double
            the memory of the whole.
        targets: (n,) all of which count.

    Returns:
        A scalar, and (n, V) in the memory of `z`.
    """
    bend = None
    if softcap is not None:
        z.div_(softcap).tanh_()
        bend = 1 - z.square() if with_slope else None  # the derivative of the cap, (n, V)
        z.mul_(softcap)
    highest = z.amax(dim=-1, keepdim=True)  # (n, 1); subtracted so that exp stays finite
    z.sub_(highest)
    scores = z.gather(-1, targets[:, None])  # (n, 1)
    z.exp_()
    sums = z.sum(dim=-1, keepdim=True)  # (n, 1)
    logs = sums.log()
    loss = (logs - scores).sum()
    totals = logs + highest  # (n, 1) log Σ exp of the logits
    if z_loss:
        loss = loss + z_loss * totals.square().sum()
    if not with_slope:
        return loss, None
    # d(log Σ exp z) = softmax(z); the z-loss adds 2 · z_loss · log Σ exp z of the same.
    z.mul_((1 + 2 * z_loss * totals) / sums)
    z.scatter_add_(-1, targets[:, None], torch.full_like(scores, -1.0))
    return loss, z if bend is None else z.mul_(bend)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a b, through no temporary where the dtypes allow."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        out.add_(a @ b)


def _check_targets(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, reduction: str
) -> Tensor:
    """Which targets count, bool like `targets`; the same refusals as `cross_entropy`."""
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"hidden (..., C) and targets (...) must agree, got {tuple(hidden.shape)} "
            f"and {tuple(targets.shape)}"
        )
    if targets.device != hidden.device:
        raise ValueError(f"hidden is on {hidden.device} and targets on {targets.device}")
    return check_targets(targets, weight.shape[0], ignore_index, reduction)


def _check_sizes(
    hidden: Tensor,
    weight: Tensor,
    softcap: float | None,
    z_loss: float,
    chunk_tokens: int,
    reduction: str,
) -> None:
    if hidden.ndim < 1 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden (..., C) and weight (V, C) must agree, got {tuple(hidden.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if hidden.device != weight.device:
        raise ValueError(f"hidden is on {hidden.device} and weight on {weight.device}")
    autocast = torch.is_autocast_enabled(hidden.device.type)
    if not hidden.is_floating_point() or (hidden.dtype != weight.dtype and not autocast):
        raise ValueError(
            f"hidden and weight must be of one float dtype, or under autocast, got "
            f"{hidden.dtype} and {weight.dtype}"
        )
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"softcap={softcap} must be a number above 0, or None for no cap")
    if not 0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss={z_loss} must be a number of at least 0")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens={chunk_tokens} must be at least 1")
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f"reduction={reduction!r} is unknown; choose 'mean' or 'sum' (for a loss per token "
            f"take llmcourse.train.cross_entropy)"
        )
