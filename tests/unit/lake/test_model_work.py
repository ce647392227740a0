"""What models did for a run, put together from several embeddings."""

from jobs.lake.model_work import ModelWork
from jobs.lake.runs import Run


def work(**more) -> ModelWork:
    """800 tokens in two batches with room for 500 each, one second of two servers that were there for two."""
    known = {
        "tokens": 800.0,
        "budget_tokens": 1000.0,
        "input_bytes": 10.0,
        "prepare_seconds": 3.0,
        "model_seconds": 1.0,
        "load_seconds": 0.5,
        "server_seconds": 4.0,
        "servers": {"a", "b"},
        "loaded": {"a"},
    }
    return ModelWork(**(known | more))


def test_shares_are_of_all_steps_together_and_a_server_counts_once():
    both = work()
    both.add(work(tokens=200.0, budget_tokens=1000.0, servers={"b", "c"}, loaded={"c"}))
    found = both.metrics(price_per_hour=3600)
    assert found == {
        "tokens": 1000,
        "tokens_per_second": 500,
        "batch_fill": 0.5,
        "model_busy": 0.25,
        "model_seconds": 2,
        "model_loads": 2,
        "load_seconds": 1,
        "bytes_read": 20,
        "cost": 2,
    }
    assert both.servers == {"a", "b", "c"}


def test_where_no_model_saw_a_row_nothing_is_claimed_and_without_a_price_no_cost():
    assert ModelWork().metrics(price_per_hour=1) == {}
    assert "cost" not in work().metrics(price_per_hour=None)
    unmeasured = work(budget_tokens=0.0, server_seconds=0.0).metrics(price_per_hour=None)
    assert not {"batch_fill", "model_busy"} & unmeasured.keys()


def test_a_run_counts_in_the_work_and_bytes_of_its_steps_and_nothing_else_of_them():
    whole, step = (
        Run(None, job, "{}", price_per_hour=36) for job in ("refresh_lake", "embed_table")
    )
    step.work = work()
    step.add_metric("bytes_written", 7)
    step.metrics["coverage"] = 0.5
    whole.add_step(step)
    whole.add_step(step)
    twice = work()
    twice.add(work())
    assert whole.measures() == twice.metrics(price_per_hour=36) | {"bytes_written": 14}
    assert step.measures()["coverage"] == 0.5
