"""The CPU recipe that nanoGPT publishes, on `torch.nn`: the peer Part 2 is measured against.

Written from the stated settings, independently of `llmcourse.model` and `llmcourse.train`: 4
layers, 4 heads, width 128, context 64, batches of 12, no dropout, no biases, GELU, tied embeddings,
learned positions; AdamW at 1e-3 falling to 1e-4 along a cosine, 100 steps of warm-up, betas 0.9 and
0.99, weight decay 0.1 on matrices, gradients clipped at norm 1; float32, fused attention, and
torch's own AdamW. It is shown to be what it claims by its parameter count and its first loss.

Source: github.com/karpathy/nanoGPT, README ("I only have a macbook") and train.py's defaults.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LAYERS, HEADS, CONTEXT, BATCH, VOCABULARY = 128, 4, 4, 64, 12, 256
PARAMETERS = 828_544  # 256 x 128 + 64 x 128 + 4 x (12 x 128 x 128 + 2 x 128) + 128


class PeerBlock(nn.Module):
    """Pre-norm attention and feed-forward, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        b, t, c = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, c // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 times (B, H, T, D)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(b, t, c))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class PeerGPT(nn.Module):
    """The recipe's model."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(PeerBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if last else 0.02)

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def train_peer(ids: Tensor, seconds: float, seed: int) -> tuple[PeerGPT, dict[str, float]]:
    """Train for `seconds` of wall-clock time, its cosine stretched to end exactly then.

    The recipe's own 2,000 steps are over sooner; stopping there would only make it worse, so it
    gets all the time there is, and the learning rate follows the share of time spent.

    Returns:
        The model in evaluation mode, and what it did: steps, tokens, seconds, first loss.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = PeerGPT()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    offsets = torch.arange(CONTEXT)
    step, first = 0, math.nan
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        share = spent / seconds
        cosine = 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * share))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else cosine
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(ids) - CONTEXT, (BATCH, 1), generator=generator)
        logits = model(ids[starts + offsets])
        loss = functional.cross_entropy(
            logits.view(-1, VOCABULARY), ids[starts + offsets + 1].view(-1)
        )
        first = loss.item() if step == 0 else first
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    tokens = step * BATCH * CONTEXT
    spent = time.perf_counter() - started
    return model.eval(), {"steps": step, "tokens": tokens, "seconds": spent, "first_loss": first}


@torch.no_grad()
def score_peer(model: PeerGPT, ids: Tensor) -> tuple[float, int]:
    """(nats, tokens) over all bytes but the first, each scored once, in windows of its context."""
    inputs, targets = ids[:-1], ids[1:]
    whole = len(inputs) // CONTEXT * CONTEXT
    pieces = [
        (inputs[:whole].view(-1, CONTEXT), targets[:whole].view(-1, CONTEXT)),
        (inputs[whole:][None], targets[whole:][None]),
    ]
    nats = 0.0
    for rows, wanted in pieces:
        if rows.shape[1]:
            logits = model(rows).flatten(0, 1)
            nats += functional.cross_entropy(logits, wanted.flatten(), reduction="sum").item()
    return nats, len(targets)
