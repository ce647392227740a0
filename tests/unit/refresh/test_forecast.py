"""What a plan says of time, memory and machines before anything is paid."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.settings.refresh import PlanSettings
from jobs.stages.refresh.effort import Figure, pace_of
from jobs.stages.refresh.forecast import Forecast, require_affordable
from jobs.stages.refresh.machines import Machines, require_fits, worker_room
from udfs.errors import BudgetError, SettingsError

GIB = 1 << 30


def test_the_pace_is_that_of_windows_however_many_rows_they_have():
    rng = np.random.default_rng(0)
    window = np.repeat(np.arange(40), 25)
    tokens = rng.integers(10, 300, len(window)).astype(float)
    paces = rng.normal(1e-3, 1e-4, 40)[window]
    found = pace_of(paces * tokens, tokens)
    assert found is not None and found.queries == 40
    assert found.mean == pytest.approx(1e-3, rel=0.1)
    # 40 windows that differ by a tenth: their mean is known to about 3 % and not to the .6 % of a thousand rows.
    assert 0.03 < (found.high - found.low) / found.mean < 0.12


def test_rows_that_the_model_did_not_see_have_no_part_in_its_pace():
    found = pace_of(np.array([0.0, 0.2, 0.4]), np.array([0.0, 100.0, 200.0]))
    assert found is not None and found.mean == pytest.approx(2e-3)
    assert pace_of(np.zeros(2), np.zeros(2)) is None


@pytest.mark.parametrize(
    ("conf", "room"),
    [
        ({"spark.master": "local[2]", "spark.driver.memory": "2g"}, 14 * GIB),
        ({"spark.master": "spark://a:7077", "spark.executor.memory": "4096"}, 12 * GIB),
        ({"spark.master": "spark://a:7077", "spark.executor.memory": "64g"}, 16 * GIB),
        ({"spark.master": "yarn", "spark.executor.memory": "10g"}, GIB),
        ({"spark.master": "yarn", "spark.executor.memory": "1g"}, 384 << 20),
        ({"spark.master": "k8s://a", "spark.executor.memory": "10g"}, 4 * GIB),
        (
            {
                "spark.master": "yarn",
                "spark.executor.memory": "4g",
                "spark.executor.memoryOverhead": "2048",
                "spark.executor.pyspark.memory": "1g",
            },
            3 * GIB,
        ),
    ],
)
def test_a_python_worker_has_what_sparks_heap_leaves_or_its_containers_overhead(conf, room):
    assert worker_room(conf.get, machine=16 * GIB) == room


def test_an_index_task_that_does_not_fit_is_refused_with_both_figures():
    machines = Machines("cpu", 2 * GIB)
    require_fits(2 * GIB, machines, index="an index")
    with pytest.raises(
        SettingsError, match=r"needs about 3.22 GB .* may take 2.15 GB.*index.shards"
    ):
        require_fits(3 * GIB, machines, index="an index of 9 rows")


def test_what_a_trial_has_spent_counts_with_the_rest():
    plan = PlanSettings(max_hours=1, price_per_hour=2, max_cost=3)
    rest = Figure(1000, 900, 3000)
    require_affordable(rest, plan, spent=600)
    with pytest.raises(BudgetError, match=r"1.028 h.*max_hours=1 .*700.0 s are spent, and what"):
        require_affordable(rest, plan, spent=700)
    with pytest.raises(BudgetError, match=r"cost up to 1.67 .*max_cost=1 .*Nothing was embedded"):
        require_affordable(rest, PlanSettings(price_per_hour=2, max_cost=1))


def test_the_rest_after_a_trial_goes_by_the_trials_pace():
    tokens = Figure(10_000, 9_000, 11_000)
    own = Forecast("m", 9, {}, 9, 0, None, tokens, Figure(1, 1, 1), None, 0, None)
    rest = own.after(1000, seconds=2.0)
    assert rest == pytest.approx((18.0, 8000 * 0.002 * 0.85, 10_000 * 0.002 * 1.15))
    assert own.after(20_000, seconds=2.0) == (0, 0, 0)
