"""Where the parameters, the arithmetic and the memory of a model are.

Taught in Part 1; the modern layers and the cache in Part 3, experts in Part 5. Everything is
counted from the config alone, without building the model; the tests compare the counts with the
built model, with torch's own FLOP counter and with the memory autograd really keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llmcourse.model.config import ModelConfig

FLOAT_BYTES = 4  # float32


@dataclass(frozen=True)
class Summary:
    """Counts for one model. Printing it gives a table."""

    config: ModelConfig
    parameters: dict[str, int]  # numbers learned, by component
    resting: int  # of these, numbers that one token does not meet: the experts it does not take
    flops: dict[str, int]  # floating-point operations per token, forward, at full context

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def active_parameters(self) -> int:
        """Those that one token meets; of a mixture of experts far fewer than all."""
        return self.total_parameters - self.resting

    @property
    def forward_flops_per_token(self) -> int:
        """At full context. A multiplication and an addition are two operations."""
        return sum(self.flops.values())

    @property
    def training_flops_per_token(self) -> int:
        """Forward plus backward: each product needs two more, one per factor's gradient."""
        return 3 * self.forward_flops_per_token

    @property
    def parameter_bytes(self) -> int:
        return FLOAT_BYTES * self.total_parameters

    @property
    def training_state_bytes(self) -> int:
        """Weights, gradients and AdamW's two running means: four numbers per parameter."""
        return 4 * self.parameter_bytes

    def activation_bytes(self, batch_size: int, tokens: int | None = None) -> int:
        """What a float32 training step must keep between forward and backward (fused attention).

        Per token and block: what attention and the feed-forward network read (2 C), queries, keys,
        values and the heads' output, the inputs of the norms, and the feed-forward network before
        and after its activation. Turned or normalised queries and keys are new tensors. On top:
        what the output layer reads, the last norm's input, and the log-probabilities the loss
        keeps. The mask of a window is not counted.

        Raises:
            ValueError: a model with latent attention or experts, for which this is not worked out.
        """
        c = self.config
        if c.latent is not None:
            raise ValueError("the activations of latent attention are not worked out")
        if c.experts is not None:
            raise ValueError("the activations of mixtures of experts are not worked out")
        tokens = tokens or c.context_length
        h, g = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
        attention = c.d_model + (h + 2 * g) + h + c.n_heads  # one log-sum-exp per head
        if c.positions == "rope" or c.qk_norm == "head":
            # New queries and keys; and heads lie one after another, to be laid side by side again.
            attention += h + g + h
        if c.qk_norm == "width":
            attention += h + 2 * g
        if c.qk_norm != "none":
            attention += c.n_heads + c.n_kv_heads if c.qk_norm == "head" else 2  # inverse sizes
        hidden = 4 if c.feed_forward == "gated" else 3 if c.activation == "relu2" else 2
        feed_forward = c.d_model + hidden * c.d_ff
        norm = {"layer": c.d_model + 2, "rms": c.d_model + 1, "none": 0}[c.norm]
        norms = 4 if c.norm_placement == "sandwich" else 2
        last_norm = 0 if c.norm_placement == "post" else norm
        head = c.vocab_size * (1 if c.logit_softcap is None else 2)
        per_token = c.n_layers * (attention + feed_forward + norms * norm)
        per_token += c.d_model + last_norm + head
        return FLOAT_BYTES * batch_size * tokens * per_token

    def attention_table_bytes(self, batch_size: int, tokens: int | None = None) -> int:
        """The (B, H, T, T) tables of weights of all layers, which `naive` attention also keeps."""
        tokens = tokens or self.config.context_length
        tables = self.config.n_layers * self.config.n_heads * tokens * tokens
        return FLOAT_BYTES * batch_size * tables

    def cache_bytes(
        self, batch_size: int, tokens: int | None = None, number_bytes: int = FLOAT_BYTES
    ) -> int:
        """Keys and values of every layer for decoding without recomputation (built in Part 3).

        A windowed layer keeps its window and the sinks, however long the text. `number_bytes` is
        the size of one number: 4 for float32, 2 for bfloat16.
        """
        c, tokens = self.config, tokens or self.config.context_length
        (g, d_key), (_, d_value) = c.cache_widths
        kept = sum(keys_seen(c, window, tokens) for window in c.windows)  # token slots, all layers
        return number_bytes * batch_size * kept * g * (d_key + d_value)

    def __str__(self) -> str:
        c = self.config
        head = (
            f"{c.n_layers} layers, width {c.d_model}, {c.n_heads} heads, feed-forward {c.d_ff}, "
            f"vocabulary {c.vocab_size:,}, context {c.context_length:,}"
        )
        rows = [f"{'':<22}{'parameters':>14}{'share':>8}{'FLOPs per token':>18}{'share':>8}"]
        names = list(dict.fromkeys([*self.parameters, *self.flops]))
        for name in names:
            p, f = self.parameters.get(name, 0), self.flops.get(name, 0)
            rows.append(
                f"{name:<22}{p:>14,}{p / self.total_parameters:>8.1%}"
                f"{f:>18,}{f / self.forward_flops_per_token:>8.1%}"
            )
        rows.append(
            f"{'total':<22}{self.total_parameters:>14,}{'':>8}{self.forward_flops_per_token:>18,}"
        )
        plain = c.latent is None and c.experts is None
        if self.resting:
            share = self.active_parameters / self.total_parameters
            rows.append(f"active for one token: {self.active_parameters:,} ({share:.1%})")
        rows += [
            f"one training token: {self.training_flops_per_token:,} FLOPs",
            f"weights {_size(self.parameter_bytes)}, "
            f"with gradients and AdamW {_size(self.training_state_bytes)}",
            f"one sequence of {c.context_length:,} tokens: "
            + (f"activations for training {_size(self.activation_bytes(1))}, " if plain else "")
            + f"cache for decoding {_size(self.cache_bytes(1))}",
        ]
        return "\n".join([head, *rows])


def summary(config: ModelConfig) -> Summary:
    """Count parameters and FLOPs of the model that `config` describes."""
    c, v, t = config.d_model, config.vocab_size, config.context_length
    layers, sparse = config.n_layers, config.n_sparse_layers
    matrices, outer, inner = _attention(config)
    learned, multiplied = _feed_forward(config, config.d_ff)
    routed = _experts(config)
    parameters = {
        "token embedding": v * c,
        "positions": t * c if config.positions == "learned" else 0,
        "attention": layers * (matrices + _attention_biases(config)),
        "feed-forward": (layers - sparse) * learned + sparse * routed.beside[0],
        "experts": sparse * routed.learned,
        "routers": sparse * routed.router,
        "norms": _norms(config),
        "output head": 0 if config.tie_embeddings else v * c,
    }
    # Matrix products only: they are all but a few percent. A product with an (in, out) matrix costs
    # 2 in out per token. A score and its part of the weighted sum cost 2 per channel and key.
    keys = sum(keys_seen(config, window, t) for window in config.windows)  # all layers together
    flops = {
        "attention": layers * 2 * outer,
        "attention scores": keys * 2 * inner,
        "feed-forward": 2 * ((layers - sparse) * multiplied + sparse * routed.beside[1]),
        "experts": sparse * 2 * routed.multiplied,
        "routers": sparse * 2 * routed.scored,
        "output head": 2 * v * c,
    }
    if not sparse:
        for counts in (parameters, flops):
            del counts["experts"], counts["routers"]
    return Summary(config, parameters, sparse * routed.resting, flops)


def _feed_forward(config: ModelConfig, f: int) -> tuple[int, int]:
    """One dense network of width f: numbers learned, and multiplications per token."""
    gated = config.feed_forward == "gated"
    matrices = (3 if gated else 2) * config.d_model * f
    biases = ((2 if gated else 1) * f + config.d_model) if config.feed_forward_bias else 0
    return matrices + biases, matrices


class _Experts(NamedTuple):
    """One sparse layer, counted."""

    learned: int = 0  # numbers in all routed experts
    resting: int = 0  # of these, in the ones a token does not take
    multiplied: int = 0  # multiplications per token in those it takes
    router: int = 0  # numbers in the router
    scored: int = 0  # multiplications per token in the router, without its noise
    beside: tuple[int, int] = (0, 0)  # learned and multiplied in what all tokens share


def _experts(config: ModelConfig) -> _Experts:
    experts = config.experts
    if experts is None:
        return _Experts()
    e, k, f = experts.n_experts, experts.n_active, config.expert_width
    learned, multiplied = _feed_forward(config, f)
    beside = [_feed_forward(config, experts.n_shared * f)] if experts.n_shared else []
    beside += [_feed_forward(config, config.d_ff)] if experts.dense_branch else []
    matrix = e * config.d_model
    return _Experts(
        learned=e * learned,
        resting=(e - k) * learned,
        multiplied=k * multiplied,
        router=matrix * (2 if experts.noise else 1) + (e if experts.selection_bias else 0),
        scored=matrix,
        beside=(sum(b[0] for b in beside), sum(b[1] for b in beside)),
    )


def keys_seen(config: ModelConfig, window: int | None, tokens: int) -> int:
    """How many of `tokens` keys the last query sees, through a window or without one."""
    return tokens if window is None else min(tokens, window + config.sinks)


def _attention(config: ModelConfig) -> tuple[int, int, int]:
    """Per layer: numbers in the matrices, multiplications per token outside and per key inside."""
    c, h, d, latent = config.d_model, config.n_heads, config.d_head, config.latent
    if latent is None:
        matrices = c * (h + 2 * config.n_kv_heads) * d + h * d * c
        return matrices, matrices, 2 * h * d
    width, query = h * (latent.d_nope + latent.d_rope), latent.d_query_latent
    up = latent.d_latent * h * (latent.d_nope + latent.d_value)
    matrices = c * width if query is None else c * query + query * width
    matrices += c * (latent.d_latent + latent.d_rope) + up + h * latent.d_value * c
    # As in training: keys and values are rebuilt, once per token.
    return matrices, matrices, width + h * latent.d_value


def _attention_biases(config: ModelConfig) -> int:
    c, latent = config.d_model, config.latent
    out = c if config.attention_out_bias else 0
    if not config.attention_bias:
        return out
    if latent is None:
        return out + (config.n_heads + 2 * config.n_kv_heads) * config.d_head
    return out + latent.d_latent + latent.d_rope + (latent.d_query_latent or 0)


def _norms(config: ModelConfig) -> int:
    """Scales, and for LayerNorm shifts, of all norms of the model."""
    per_norm = config.d_model * {"layer": 2, "rms": 1, "none": 0}[config.norm]
    per_block = (4 if config.norm_placement == "sandwich" else 2) * per_norm
    if config.qk_norm == "head":
        per_block += 2 * config.d_head
    elif config.qk_norm == "width":
        per_block += (config.n_heads + config.n_kv_heads) * config.d_head
    if config.latent is not None:
        per_block += config.latent.d_latent + (config.latent.d_query_latent or 0)
    return config.n_layers * per_block + (0 if config.norm_placement == "post" else per_norm)


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
