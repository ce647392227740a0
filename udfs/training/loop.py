"""The training itself, run by each of its processes. Imports torch; jobs reach it through `udfs.training.launch`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from udfs.errors import RowRejected, SettingsError
from udfs.gme.prepare import Prepared, Row, RowPreparer
from udfs.training.model import TrainableEncoder
from udfs.training.plan import TrainingData
from udfs.training.retrieval import Vectors, evaluate
from udfs.training.saving import Position, TrainingFiles
from udfs.training.scoring import write_scores
from udfs.training.sources import open_source, open_validation
from udfs.training.spec import TrainSpec
from udfs.training.step import StepRows, Team, learning_rate, make_optimiser, train_step

log = logging.getLogger("gme_lake")
_LOG_SECONDS = 10.0  # between two lines of progress
_ROWS_AT_ONCE = 512  # prepared for a search


def train(spec: TrainSpec) -> None:
    """Train from `spec.base`, or go on where the work folder stands, and write `spec.output`.

    Each process calls it, with torch.distributed's variables in the environment where there are several. Raises
    SettingsError, CheckpointError, LakeError.
    """
    if (spec.steps is None) == (spec.minutes is None):
        raise SettingsError("give the length of the training as train.steps or train.minutes")
    torch.set_num_threads(spec.threads)
    if spec.processes == 1:
        return Trainer(spec, Team()).run()
    distributed.init_process_group("nccl" if spec.device == "cuda" else "gloo")
    try:
        team = Team(distributed.get_rank(), distributed.get_world_size())
        if spec.device == "cuda":
            torch.cuda.set_device(team.rank % torch.cuda.device_count())
        Trainer(spec, team).run()
    finally:
        distributed.destroy_process_group()
    return None


class Trainer:
    """One process's part of a training."""

    def __init__(self, spec: TrainSpec, team: Team) -> None:
        self._spec = spec
        self._team = team
        torch.manual_seed(spec.seed)
        encoder = TrainableEncoder.load(spec.base, options=spec.model, seed=spec.seed)
        self._encoder = encoder.to(spec.device)
        self._preparer = RowPreparer.load(spec.base, profile=spec.profile)
        self._optimiser = make_optimiser(encoder.trainable(), spec.optimiser)
        self._files = TrainingFiles(spec)
        self._source = open_source(spec, self._preparer, team)
        leads = team.rank == 0
        self._validation = open_validation(spec) if leads and spec.validate_every else None

    def run(self) -> None:
        """All steps that are left, then the checkpoint in hub layout, then the scores of the final weights."""
        spec, team = self._spec, self._team
        position = self._files.restore(self._encoder, self._optimiser)
        if team.rank == 0:
            self._files.drop_metrics_after(position.step)
        wrapped = self._wrap()
        began = time.monotonic() - position.seconds
        shown = 0.0
        for step in prefetch(self._source, start=position.step, team=team):
            progress = self._progress(position)
            if progress >= 1.0:
                break
            values = self._descend(wrapped, step, progress)
            position = Position(position.step + 1, time.monotonic() - began)
            if team.rank == 0:
                self._files.log(position, values)
                if position.seconds - shown >= _LOG_SECONDS:
                    shown = position.seconds
                    log.info(
                        "step %d, %.0f%%, loss %.3f", position.step, 100 * progress, values["loss"]
                    )
                self._after_step(position)
        if team.rank == 0:
            self._files.save(self._encoder, self._optimiser, position)
            if spec.output:
                self._encoder.save(spec.output, dtype=spec.dtype, profile=spec.profile)
        team.barrier()
        if team.rank == 0:
            write_scores(self._vectors, spec, step=position.step, seconds=position.seconds)

    def _wrap(self) -> Any:
        if self._team.world == 1:
            return self._encoder
        # A step without pictures gives the vision tower no gradient.
        return DistributedDataParallel(self._encoder, find_unused_parameters=True)

    def _progress(self, position: Position) -> float:
        """Share of the training that is done, the same in all processes."""
        if self._spec.steps is not None:
            return position.step / self._spec.steps
        return self._team.agree(position.seconds / (60.0 * (self._spec.minutes or 0.0)))

    def _descend(self, wrapped: Any, step: StepRows, progress: float) -> dict[str, float]:
        half_a_step = 0.5 / self._spec.steps if self._spec.steps else 0.0
        rate = learning_rate(progress + half_a_step, self._spec.optimiser)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss, norm = train_step(
            wrapped,
            self._optimiser,
            step,
            temperature=self._spec.temperature,
            clip=self._spec.optimiser.clip,
            team=self._team,
        )
        accuracy = {f"accuracy/{name}": value for name, value in loss.accuracy.items()}
        losses = {f"loss/{name}": value for name, value in loss.by_direction.items()}
        rejected = step.valid.count(False)
        found = {"loss": float(loss.total.detach()), "lr": rate, "grad_norm": norm}
        return {**found, **accuracy, **losses, "rejected": rejected}

    def _after_step(self, position: Position) -> None:
        every = self._spec.validate_every
        if self._validation and position.step % every == 0:
            corpus, tasks = self._validation
            scores = evaluate(self._vectors, corpus, tasks)
            self._files.log(
                position, {f"validation/{name}": score.mean for name, score in scores.items()}
            )
        if position.step % self._spec.checkpoint_every == 0:
            self._files.save(self._encoder, self._optimiser, position)

    @torch.no_grad()
    def _vectors(self, rows: list[Row]) -> Vectors:
        """Vectors by the weights as they are now. Raises SettingsError for NaN, which a ranking would not show."""
        parts: list[Vectors] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            prepared = [self._preparer.prepare(row) for row in part]
            parts.append(self._encoder(prepared).float().cpu().numpy())
        vectors = np.concatenate(parts)
        if not np.isfinite(vectors).all():
            raise SettingsError(
                "the training has diverged: its weights give vectors that are not finite; set train.lr lower"
            )
        return vectors


def prefetch(source: TrainingData, *, start: int, team: Team) -> Iterator[StepRows]:
    """This process's rows of step `start`, `start` + 1, …; the next one is prepared while a step runs."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_step_rows, source, start, team)
        while True:
            current = following.result()
            start += 1
            following = pool.submit(_step_rows, source, start, team)
            yield current


def _step_rows(source: TrainingData, step: int, team: Team) -> StepRows:
    plan = source.plan(step)
    rows: list[Prepared] = []
    valid: list[bool] = []
    for item in plan.items[team.rank :: team.world]:
        try:
            rows.append(source.prepare(item))
            valid.append(True)
        except RowRejected as error:
            log.warning("step %d: a row is left out: %s", step, error)
            rows.append(_placeholder())
            valid.append(False)
    return StepRows(plan, rows, valid)


def _placeholder() -> Prepared:
    """Stands for a row that cannot be read; the loss leaves it out."""
    return Prepared(np.zeros(1, dtype=np.int32))
