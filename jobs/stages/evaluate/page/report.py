"""What an evaluation came to, told: figures for MLflow, and the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.lake.lake import absolute
from jobs.lake.runs import Run
from jobs.stages.evaluate.figures.compare import ComparedRow
from jobs.stages.evaluate.figures.floors import Floors
from jobs.stages.evaluate.figures.measuring import EmbeddedTasks
from jobs.stages.evaluate.figures.record import Evaluation
from jobs.stages.evaluate.figures.summary import SummaryRow
from jobs.stages.evaluate.page.html import Differences, EvaluationPage, write_evaluation_report
from jobs.stages.evaluate.page.shown import RankedTask, task_examples


@dataclass(frozen=True)
class IndexedEvaluation:
    """The same queries through an index: its own evaluation, and its difference to the exact one."""

    evaluation: Evaluation
    lines: Sequence[SummaryRow]
    differences: Sequence[ComparedRow]


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation came to: its table, its floors, and its differences where they were asked for."""

    evaluation: Evaluation
    lines: Sequence[SummaryRow]
    floors: Floors
    against: str | None = None
    differences: Sequence[ComparedRow] = ()
    indexed: IndexedEvaluation | None = None
    page: Path | None = None

    @property
    def columns(self) -> Mapping[str, Differences]:
        """Differences by what they are, then by (level, name) of a line."""
        parts: dict[str, Sequence[ComparedRow]] = {}
        if self.against:
            parts[f"new − {self.against}"] = self.differences
        if self.indexed:
            parts["index − exact"] = self.indexed.differences
        return {
            title: {(row.level, row.name): row.difference for row in rows}
            for title, rows in parts.items()
        }

    def values(self) -> dict[str, object]:
        """The same for programs."""
        through = self.indexed
        return {
            **vars(self.evaluation),
            "lines": self.lines,
            "floors": self.floors,
            "against": self.against,
            "differences": self.differences,
            "indexed": through
            and {
                **vars(through.evaluation),
                "lines": through.lines,
                "differences": through.differences,
            },
            "page": self.page,
        }


def log_figures(run: Run, report: EvaluationReport) -> None:
    """Figures of every line as MLflow metrics, e.g. `task.photos.ndcg_at_10` with `.low` and `.high`."""
    run.tags["evaluation_id"] = report.evaluation.evaluation_id
    for line in report.lines:
        name = _metric_name(line, line.metric)
        score = line.score
        run.metrics |= {name: score.mean, f"{name}.low": score.low, f"{name}.high": score.high}
    if report.indexed:
        run.tags["index_evaluation_id"] = report.indexed.evaluation.evaluation_id
    named = {"new_minus_old": report.differences}
    named |= {"index_minus_exact": report.indexed.differences} if report.indexed else {}
    for what, rows in named.items():
        for row in rows:
            name, change = _metric_name(row, what), row.difference
            run.metrics |= {
                name: change.mean,
                f"{name}.low": change.low,
                f"{name}.high": change.high,
            }
    tasks = [line for line in report.lines if line.level == "task"]
    run.counts["tasks"] = len(tasks)
    run.counts["queries"] = sum(line.score.queries for line in tasks)


def _metric_name(line: SummaryRow | ComparedRow, what: str) -> str:
    """As MLflow allows it: letters, digits and _-. /; a task may be called anything."""
    name = f"{line.level}.{line.name}.{what}".replace("@", "_at_")
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def write_page(
    run: Run,
    asked: EmbeddedTasks,
    exact: Sequence[RankedTask],
    report: EvaluationReport,
    *,
    file: str,
) -> Path:
    """Write the HTML page of an evaluation to `file`; returns its path."""
    page = EvaluationPage(
        title=_title(run),
        lines=report.lines,
        facts=_facts(run, report, exact),
        examples=task_examples(asked.suite, exact, queries=asked.staged),
        floors=report.floors,
        differences=report.columns,
    )
    return write_evaluation_report(absolute(file), page)


def _title(run: Run) -> str:
    return f"Retrieval of {run.model.name} version {run.model.version}" if run.model else run.job


def _facts(run: Run, report: EvaluationReport, exact: Sequence[RankedTask]) -> dict[str, str]:
    scores = [task.score for task in exact]
    corpora = {task.corpus: task.score for task in exact}.values()
    search = f"exact, and {report.indexed.evaluation.search}" if report.indexed else "exact"
    facts = {
        "model_id": report.evaluation.model_id,
        "evaluation": report.evaluation.evaluation_id,
        "tasks": f"{len(scores)}",
        "queries": f"{sum(len(score.scores.query_ids) for score in scores):,}",
        "of them without a vector": f"{sum(score.rejected_queries for score in scores):,}",
        "documents": f"{sum(score.documents for score in corpora):,}",
        "of these without a vector": f"{sum(score.rejected_documents for score in corpora):,}",
        "search": search,
    }
    return facts | {f"seconds to {name}": f"{seconds:.1f}" for name, seconds in run.seconds.items()}
