"""Where the parameters, the arithmetic and the memory of a model are.

Taught in Part 1. Everything is counted from the config alone, without building the model; the tests
compare the counts with the built model, with torch's own FLOP counter and with the memory autograd
really keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmcourse.model.config import ModelConfig

FLOAT_BYTES = 4  # float32


@dataclass(frozen=True)
class Summary:
    """Counts for one model. Printing it gives a table."""

    config: ModelConfig
    parameters: dict[str, int]  # numbers learned, by component
    flops: dict[str, int]  # floating-point operations per token, forward, at full context

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

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

        Per token and block: what attention and the feed-forward network read, queries, keys,
        values, the heads' output (6 C in all), the inputs of two norms (2 C), and the feed-forward
        network before and after its activation (2 d_ff). On top: what the output layer reads, the
        last norm's input, and the log-probabilities the loss keeps.
        """
        c, tokens = self.config.d_model, tokens or self.config.context_length
        norms = 2 if self.config.norm == "layer" else 0
        last_norm = 1 if norms and self.config.norm_placement == "pre" else 0
        # One log-sum-exp per head; an input, a mean and a deviation per norm.
        block = 6 * c + 2 * self.config.d_ff + self.config.n_heads + norms * (c + 2)
        per_token = self.config.n_layers * block + c + last_norm * (c + 2) + self.config.vocab_size
        return FLOAT_BYTES * batch_size * tokens * per_token

    def attention_table_bytes(self, batch_size: int, tokens: int | None = None) -> int:
        """The (B, H, T, T) tables of weights of all layers, which `naive` attention also keeps."""
        tokens = tokens or self.config.context_length
        tables = self.config.n_layers * self.config.n_heads * tokens * tokens
        return FLOAT_BYTES * batch_size * tables

    def cache_bytes(self, batch_size: int, tokens: int | None = None) -> int:
        """Keys and values of every layer for decoding without recomputation (built in Part 3)."""
        tokens = tokens or self.config.context_length
        per_token = 2 * self.config.n_layers * self.config.d_model
        return FLOAT_BYTES * batch_size * tokens * per_token

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
        rows += [
            f"one training token: {self.training_flops_per_token:,} FLOPs",
            f"weights {_size(self.parameter_bytes)}, "
            f"with gradients and AdamW {_size(self.training_state_bytes)}",
            f"one sequence of {c.context_length:,} tokens: "
            f"activations for training {_size(self.activation_bytes(1))}, "
            f"cache for decoding {_size(self.cache_bytes(1))}",
        ]
        return "\n".join([head, *rows])


def summary(config: ModelConfig) -> Summary:
    """Count parameters and FLOPs of the model that `config` describes."""
    c, f, v, t = config.d_model, config.d_ff, config.vocab_size, config.context_length
    layers = config.n_layers
    attention_bias = 4 * c if config.attention_bias else 0
    feed_forward_bias = f + c if config.feed_forward_bias else 0
    norms = 0
    if config.norm == "layer":
        norms = 2 * c * (2 * layers + (1 if config.norm_placement == "pre" else 0))
    parameters = {
        "token embedding": v * c,
        "positions": t * c if config.positions == "learned" else 0,
        "attention": layers * (4 * c * c + attention_bias),
        "feed-forward": layers * (2 * c * f + feed_forward_bias),
        "norms": norms,
        "output head": 0 if config.tie_embeddings else v * c,
    }
    # Matrix products only: they are all but a few percent. A product with an (in, out) matrix costs
    # 2 in out per token. Scores and weighted sum each cost 2 T C per token over T keys.
    flops = {
        "attention": layers * 2 * 4 * c * c,
        "attention scores": layers * 2 * 2 * t * c,
        "feed-forward": layers * 2 * 2 * c * f,
        "output head": 2 * v * c,
    }
    return Summary(config, parameters, flops)


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
