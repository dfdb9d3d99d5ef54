"""The choices of a mixture of experts, in one frozen record: `ModelConfig(experts=Experts(...))`.

Taught in Part 5. A sparse layer holds E feed-forward networks, the experts, and sends each token
through K of them. Everything that published models do differently is a field here.

Sources: Shazeer et al. 2017, arXiv 1701.06538 (noisy top-k, importance loss); Switch Transformer,
arXiv 2101.03961 (capacity, load-balancing loss); ST-MoE, arXiv 2202.08906 (z-loss); Expert Choice,
arXiv 2202.09368; Mixtral, arXiv 2401.04088; DeepSeekMoE, arXiv 2401.06066 (shared and fine-grained
experts); DeepSeek-V3, arXiv 2412.19437 (sigmoid scores, selection bias, groups).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

CHOICES = {
    "score": ("softmax", "sigmoid"),
    "choice": ("token", "expert"),
    "group_score": ("two", "best"),
    "balance_over": ("batch", "sequence", "model"),
    "dispatch": ("grouped", "loop"),
}
# What changes no parameter: `Transformer.with_options` may change these.
FREE = (
    "bias_rate",
    "capacity",
    "balance_weight",
    "balance_over",
    "z_weight",
    "importance_weight",
    "dispatch",
)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts.

    Raises:
        ValueError: a value is impossible; the message names the field, the value and the choice.
    """

    n_experts: int  # E, experts of a sparse layer to choose among
    n_active: int  # K, experts that each token takes; with choice="expert" on average
    d_ff: int | None = None  # width inside one expert; None: the model's d_ff
    n_shared: int = 0  # experts that every token takes besides, built as one network
    score: str = "softmax"  # what turns the router's logits into scores; "sigmoid" in DeepSeek-V3
    renormalise: bool = True  # the weights of a token's chosen experts sum to 1 (times `scale`)
    scale: float = 1.0  # all weights are multiplied by this
    choice: str = "token"  # who chooses: each token its experts, or each "expert" its tokens
    noise: bool = False  # learned noise on the logits while training: noisy top-k
    selection_bias: bool = False  # a number per expert, added to the scores for choosing only
    bias_rate: float = 1e-3  # by how much an update of the weights moves the selection bias
    n_groups: int = 1  # experts are divided into so many groups ...
    n_active_groups: int = 1  # ... of which a token may use only the best so many
    group_score: str = "two"  # ranks a group by its "two" best experts' sum, or by the "best" alone
    capacity: float | None = None  # an expert takes at most capacity N K / E tokens; None: all
    layers: tuple[int, ...] | None = None  # which layers are sparse, counted from 0; None: all
    dense_branch: bool = False  # a dense network of the model's d_ff beside the experts
    balance_weight: float = 0.01  # of the load-balancing loss
    balance_over: str = "batch"  # tokens it balances: of a layer's batch, of each "sequence", or
    # of all layers of the "model" thrown together, as transformers computes it
    z_weight: float = 0.0  # of the router z-loss, which keeps logits small
    importance_weight: float = 0.0  # of the importance loss, which evens out summed weights
    dispatch: str = "grouped"  # how tokens reach experts; "loop" reads like the definition

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):  # as JSON has it
            object.__setattr__(self, "layers", tuple(self.layers))
        for name in ("n_experts", "n_active", "n_groups", "n_active_groups"):
            _whole(name, getattr(self, name), 1)
        _whole("n_shared", self.n_shared, 0)
        if self.d_ff is not None:
            _whole("d_ff", self.d_ff, 1)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"experts {name}={getattr(self, name)!r} is unknown; choose one of "
                    f"{list(allowed)}"
                )
        for field in dataclasses.fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"experts {field.name} must be True or False")
        if self.n_active > self.n_experts:
            raise ValueError(
                f"experts n_active={self.n_active} is more than n_experts={self.n_experts}; a "
                f"token cannot take more experts than there are: choose 1 to {self.n_experts}"
            )
        for name in ("balance_weight", "z_weight", "importance_weight", "bias_rate"):
            _number(name, getattr(self, name), 0.0, "at least 0", self_included=True)
        _number("scale", self.scale, 0.0, "above 0")
        if self.capacity is not None:
            _number("capacity", self.capacity, 0.0, "above 0, or None for no limit")
        self._check_layers()
        self._check_groups()
        self._check_choice()

    def _check_layers(self) -> None:
        if self.layers is None:
            return
        whole = isinstance(self.layers, tuple) and all(type(i) is int for i in self.layers)
        if not whole or not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"experts layers={self.layers!r} must be different whole numbers in rising order, "
                f"for example (1, 3, 5), or None for every layer"
            )
        if self.layers[0] < 0:
            raise ValueError(f"experts layers={self.layers!r}: layers count from 0")

    def _check_groups(self) -> None:
        e, groups, active = self.n_experts, self.n_groups, self.n_active_groups
        if e % groups:
            fits = [g for g in range(1, e + 1) if e % g == 0]
            raise ValueError(
                f"experts n_groups={groups} does not divide n_experts={e}: choose one of {fits}"
            )
        if active > groups:
            raise ValueError(
                f"experts n_active_groups={active} is more than n_groups={groups}: choose 1 to "
                f"{groups}"
            )
        reach = active * (e // groups)
        if self.n_active > reach:
            raise ValueError(
                f"experts n_active={self.n_active} is more than the {reach} experts in "
                f"n_active_groups={active} groups of {e // groups}"
            )

    def _check_choice(self) -> None:
        if self.choice == "token":
            return
        for name, plain in (
            ("selection_bias", False),
            ("noise", False),
            ("capacity", None),
            ("n_groups", 1),
        ):
            if getattr(self, name) != plain:
                raise ValueError(
                    f'experts {name}={getattr(self, name)!r} has no meaning with choice="expert", '
                    f"where every expert takes equally many tokens; leave it {plain}"
                )

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer, counted from 0, is a mixture of experts."""
        return self.layers is None or layer in self.layers

    def expert_capacity(self, tokens: int) -> int | None:
        """The most tokens an expert takes of so many; None: no limit."""
        if self.capacity is None:
            return None
        # Less what rounding may have added: 1.1 times 50 is a little more than 55.
        return math.ceil(self.capacity * tokens * self.n_active / self.n_experts - 1e-9)

    def same_weights(self, other: Experts) -> bool:
        """Whether the two differ only in what trained weights do not depend on."""
        free = {name: getattr(self, name) for name in FREE}
        return dataclasses.replace(other, **free) == self

    def replace(self, **changes: Any) -> Experts:
        """A record with some fields changed.

        Raises:
            ValueError: no field of that name (the nearest is named), or an impossible value.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                raise ValueError(f"experts has no field {name!r}; {hint}")
        return dataclasses.replace(self, **changes)


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"experts {name}={value!r} must be a whole number of at least {least}")


def _number(
    name: str, value: Any, least: float, wanted: str, *, self_included: bool = False
) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < least or (value == least and not self_included):
        raise ValueError(f"experts {name}={value!r} must be a number {wanted}")
