"""What grading found: one row for each exercise of each submission."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

STATUSES = ("passed", "failed", "not attempted", "missing", "error")


@dataclass(frozen=True)
class Row:
    """One exercise of one submission."""

    submission: str  # the folder it came from, or the file's name
    notebook: str
    exercise: str  # empty for a file that could not be graded at all
    title: str
    status: str  # one of STATUSES
    points: int
    most: int  # points to be had
    message: str  # the feedback, empty when passed
    misconception: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}, got {self.status!r}")


@dataclass(frozen=True)
class Report:
    """All rows, in the order of the submissions. `str(report)` is a table."""

    rows: tuple[Row, ...]

    @property
    def points(self) -> int:
        return sum(row.points for row in self.rows)

    @property
    def most(self) -> int:
        return sum(row.most for row in self.rows)

    def totals(self) -> dict[str, tuple[int, int]]:
        """Points and points to be had, by submission."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            points, most = found.get(row.submission, (0, 0))
            found[row.submission] = points + row.points, most + row.most
        return found

    def misconceptions(self) -> list[tuple[str, str, int]]:
        """(exercise, misconception, how many), the most frequent first: what to teach again."""
        found = Counter((r.exercise, r.misconception) for r in self.rows if r.misconception)
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return [(exercise, text or "", count) for (exercise, text), count in ranked]

    def to_csv(self) -> str:
        """Every row, with all its fields."""
        names = [field.name for field in fields(Row)]
        return _csv([names, *([getattr(row, name) for name in names] for row in self.rows)])

    def gradebook(self) -> str:
        """CSV: a line for each submission, a column for each exercise, and the total."""
        columns = list(dict.fromkeys(row.exercise for row in self.rows if row.exercise))
        columns.sort(key=lambda name: tuple(int(piece) for piece in name.split(".")))
        table: list[list[object]] = [["submission", *columns, "points", "of"]]
        for submission, (points, most) in self.totals().items():
            earned = {r.exercise: r.points for r in self.rows if r.submission == submission}
            line = [earned.get(name, "") for name in columns]
            table.append([submission, *line, points, most])
        return _csv(table)

    def to_json(self) -> str:
        totals = {name: {"points": p, "of": m} for name, (p, m) in self.totals().items()}
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"totals": totals, "rows": rows}, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        if not self.rows:
            return "nothing was graded"
        lines = []
        for submission, (points, most) in self.totals().items():
            lines.append(f"{submission}: {points} of {most} points")
            notebook = None
            for row in self.rows:
                if row.submission != submission:
                    continue
                if row.notebook != notebook:
                    notebook = row.notebook
                    lines.append(f"  {notebook}")
                mark = f"{row.points}/{row.most}"
                head = f"    {row.exercise:<5} {row.title[:44]:<45} {mark:>5}  {row.status}"
                reason = row.misconception or _reason(row)
                lines.append(head + (f": {reason}" if reason else ""))
        return "\n".join(lines)


def _reason(row: Row) -> str:
    """One line on why: the second line of the feedback is the property that broke."""
    if row.status in {"passed", "not attempted"}:
        return ""
    lines = row.message.splitlines()
    line = lines[1] if len(lines) > 1 else lines[0] if lines else ""
    return line.strip().removeprefix("what broke:").strip()


def _csv(table: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue()
