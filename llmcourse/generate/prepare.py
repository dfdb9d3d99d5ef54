"""Making a model ready to write: weights packed the way the processor reads them fastest.

Taught in Part 3. Decoding one token multiplies every weight by one vector: the arithmetic is
nothing, reading the weights is everything. A plain matrix-vector product reads a large matrix at a
third of the memory's speed; oneDNN, which torch brings along, reads it at nearly all of it once the
rows are stored in the blocks it wants. In bfloat16 there is half as much to read.

Packing changes where numbers lie, not the model: `prepare_for_inference` gives the same
`Transformer` with its `Linear` layers stored otherwise. It cannot be trained or saved; the model it
was made of still can.

Of a mixture of experts (Part 5) each expert's matrices are packed by themselves, so that a token
reads those of its own experts and no others. Routers stay as they are: they are small, and the
choice between two experts hangs on small differences.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model import Transformer
from llmcourse.model.expert_dispatch import slices
from llmcourse.model.latent_attention import LatentAttention
from llmcourse.model.layers import Linear
from llmcourse.model.moe import ExpertStack, between_products
from llmcourse.model.router import Router

PACKABLE = (torch.float32, torch.bfloat16)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch can pack weights of that dtype for this processor.

    The two operations are private to torch (its own compiler uses them), so they are looked for
    and never taken for granted.
    """
    found = all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
    if device.type != "cpu" or dtype not in PACKABLE or not found:
        return False
    if dtype == torch.bfloat16:
        return torch.backends.mkldnn.is_available() and _reads_bfloat16()
    return torch.backends.mkldnn.is_available()


class PackedLinear(nn.Module):
    """`Linear` with its weight in oneDNN's blocks: the same products, for inference only.

    Args:
        weight: (out, in) float32 or bfloat16, on the CPU.
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.d_out, self.d_in = weight.shape
        self.dtype, self.bias = weight.dtype, bias
        # Without a hint at the number of rows: the layout for "one row" was measured to be read
        # more slowly, even by one row (float32, 3,072 to 768: 0.30 against 0.24 ms).
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        if x.shape[-1] != self.d_in:
            raise ValueError(f"Linear expects inputs of width {self.d_in}, got {tuple(x.shape)}")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def extra_repr(self) -> str:
        return f"{self.d_in} -> {self.d_out}, {self.dtype}, packed"


class PackedExperts(nn.Module):
    """`ExpertStack` with every expert's two matrices packed: the same networks, for inference only.

    Args:
        stack: left as it is.
        dtype: float32 or bfloat16.
    """

    def __init__(self, stack: ExpertStack, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation, self.gated = stack.activation, stack.gated
        self.up = _packed_each(stack.up, stack.up_bias, dtype)
        self.down = _packed_each(stack.down, stack.down_bias, dtype)

    def one(self, e: int, x: Tensor) -> Tensor:
        """Expert e's network: (n, C) -> (n, C)."""
        hidden = between_products(self.up[e](x), self.activation, self.gated)
        return self.down[e](hidden)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """All experts' networks: rows (A, C) sorted by expert, counts (E,) of them each."""
        made = [self.one(e, piece) for e, piece in slices(rows, counts)]
        return torch.cat(made) if made else torch.empty_like(rows)


def prepare_for_inference(model: Transformer, dtype: torch.dtype | None = None) -> Transformer:
    """The same model, ready to write fast: evaluation mode, `dtype`, packed weights.

    Where packing is not to be had (another device or dtype, an old processor) the weights are only
    converted. What it gives shares nothing with `model` that either could change.

    Args:
        model: left as it is.
        dtype: float32, bfloat16, float16 or float64; None keeps the model's own.

    Returns:
        A `Transformer` of the same config; its logits equal the model's up to the rounding of
        `dtype` (1e-4 relative in float32: sums are taken in another order).

    Raises:
        ValueError: a dtype that is not one of floating-point numbers.
    """
    device = model.embedding.weight.device
    dtype = model.embedding.weight.dtype if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype} must be one of floating-point numbers")
    ready = model.with_options(dropout=0.0).eval()
    pack = can_pack(device, dtype)
    for name, module in list(ready.named_modules()):
        if isinstance(module, Linear) and pack and not _needs_its_weight(ready, name):
            _replace(ready, name, _packed(module.weight, module.bias, dtype))
        elif isinstance(module, ExpertStack) and pack:
            _replace(ready, name, PackedExperts(module, dtype))
        elif isinstance(module, Router):
            _convert(module, dtype, narrow=False)
        else:
            _convert(module, dtype)
    if pack and ready.head is None:
        # The embedding table is looked up by row and, tied, multiplied as a whole: once each.
        ready.head = _packed(model.embedding.weight, None, dtype)
    return ready.requires_grad_(False)


def _packed(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> PackedLinear:
    bias = None if bias is None else bias.detach().to(dtype, copy=True)
    return PackedLinear(weight.detach().to(dtype), bias)


def _packed_each(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.ModuleList:
    """(E, out, in) and (E, out) or None -> E packed layers."""
    biases = [None] * len(weight) if bias is None else bias
    return nn.ModuleList(_packed(w, b, dtype) for w, b in zip(weight, biases, strict=True))


def _convert(module: nn.Module, dtype: torch.dtype, *, narrow: bool = True) -> None:
    """A module's own parameters and buffers, as copies; the shared ones stay what they are.

    Without `narrow` what is wider than `dtype` stays as wide.
    """
    for name, parameter in module._parameters.items():
        if parameter is not None:
            to = dtype if narrow else torch.promote_types(dtype, parameter.dtype)
            copy = parameter.detach().to(to, copy=True)
            module._parameters[name] = nn.Parameter(copy, requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_floating_point():
            module._buffers[name] = buffer.to(dtype, copy=True)


def _needs_its_weight(model: Transformer, name: str) -> bool:
    """The absorbed form of latent attention multiplies by the weight in other ways than a layer."""
    owner, _, leaf = name.rpartition(".")
    return leaf == "up" and isinstance(model.get_submodule(owner), LatentAttention)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _reads_bfloat16() -> bool:
    check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(check()) if check is not None else False
