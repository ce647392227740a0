"""Which queries of a task a report shows: a few that went well and a few that went badly."""

from __future__ import annotations

import numpy as np

from jobs.stages.evaluate.figures.summary import TaskScore


def pick_queries(task: TaskScore, *, count: int = 3) -> tuple[list[str], list[str]]:
    """Ids of at most `count` best and `count` worst queries by the main metric, best and worst first.

    A query that found nothing is never good, one with the full score never bad, and none is both. Of equal ones some
    are drawn, the same ones every time. At most half are good ones: a small task shows both.
    """
    ids, values = task.scores.query_ids, task.values
    drawn = np.random.default_rng(task.seed).permutation(len(ids))
    order = drawn[np.argsort(values[drawn], kind="stable")]
    good = [int(n) for n in order[::-1] if values[n] > 0][: min(count, max(1, len(ids) // 2))]
    bad = [int(n) for n in order if values[n] < 1 and n not in good][:count]
    return [ids[n] for n in good], [ids[n] for n in bad]
