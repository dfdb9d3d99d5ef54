"""What a training run leaves behind: one record per step, and the history they make. Part 2."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """One update. The loss was measured on the step's batch before the update changed anything."""

    step: int  # updates made, 1 for the first; record 1 holds the untouched model's loss
    loss: float  # nats per token
    learning_rate: float
    gradient_norm: float | None  # before clipping; None where it overflowed and no step was taken
    tokens: int  # targets learned from since the start
    seconds: float  # since the start, evaluation and samples left out
    validation_loss: float | None = None  # nats per token, after the update; None if not measured
    sample: str | None = None  # text the model wrote after the update
    loss_scale: float | None = None  # what the loss was multiplied by; None where it was not

    @property
    def skipped(self) -> bool:
        """Whether the gradients overflowed, in float16, and the weights were left as they were."""
        return self.gradient_norm is None


@dataclass
class History:
    """The records of a run, in order."""

    records: list[StepRecord] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [record.step for record in self.records]

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.records]

    @property
    def validation(self) -> list[tuple[int, float]]:
        """(step, loss) wherever it was measured."""
        return [(r.step, r.validation_loss) for r in self.records if r.validation_loss is not None]

    @property
    def samples(self) -> list[tuple[int, str]]:
        """(step, text) wherever one was taken."""
        return [(r.step, r.sample) for r in self.records if r.sample is not None]

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the whole run, evaluation left out."""
        last = self.records[-1] if self.records else None
        return last.tokens / last.seconds if last and last.seconds > 0 else 0.0

    def to_json(self) -> str:
        columns = [f.name for f in dataclasses.fields(StepRecord)]
        rows = [[getattr(record, name) for name in columns] for record in self.records]
        return json.dumps({"columns": columns, "rows": rows})

    @classmethod
    def from_json(cls, text: str) -> History:
        data = json.loads(text)
        rows: Iterable[list] = data["rows"]
        return cls([StepRecord(**dict(zip(data["columns"], row, strict=True))) for row in rows])
