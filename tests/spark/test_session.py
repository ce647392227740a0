"""A session that somebody else started stays as it is, nothing that is written depends on its time zone, and its UI
tells what its jobs are for.
"""

from types import SimpleNamespace

import pytest

TEMPLATE = "{title} of {made} and {day}{times}"


@pytest.mark.spark
def test_a_given_sessions_time_zone_is_kept_and_changes_no_text(spark):
    from jobs.driver.session import open_session
    from jobs.lake.lake import now
    from jobs.settings.load import load_settings
    from jobs.stages.embed.source import Source
    from udfs.specs import READ_ANYWHERE

    settings = load_settings(sets=[f"source.text={TEMPLATE}"], env={})
    source = Source("shop", settings.source, "none", False, 0, READ_ANYWHERE)
    name = "spark.sql.session.timeZone"
    own = spark.conf.get(name)
    assert own == "UTC"  # of a session that we start
    written = []
    try:
        for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
            spark.conf.set(name, zone)
            assert open_session(settings) is spark and spark.conf.get(name) == zone
            rows = spark.sql(
                "SELECT micros AS id, 'a mug' AS title, timestamp_micros(micros) AS Made, DATE'2024-03-10' AS day, "
                "IF(micros = 0, named_struct('n', 1, 'at', map('a', array(timestamp_micros(micros), NULL))), NULL) AS times "
                "FROM VALUES (1710054000123456L), (0L), (NULL) AS t(micros)"
            )
            written.append([row.text for row in source.rows(rows).collect()])
            moment = now()
            frame = spark.createDataFrame([(moment,)], "at timestamp")
            micros = frame.selectExpr("unix_micros(at)").first()[0]
            assert micros == round(moment.timestamp() * 1e6)
    finally:
        spark.conf.set(name, own)
    assert written[0] == written[1] == written[2]
    assert written[0] == [
        "a mug of 2024-03-10 07:00:00.123456 and 2024-03-10",
        "a mug of 1970-01-01 00:00:00 and 2024-03-10{1, {a -> [1970-01-01 00:00:00, null]}}",
        "a mug of  and 2024-03-10",
    ]


@pytest.mark.spark
def test_jobs_of_a_stage_are_called_after_it_in_sparks_ui(spark):
    from jobs.lake.runs import Run

    run = Run(SimpleNamespace(), "build_index", "{}", run_id="run-1")
    context = spark.sparkContext._jsc.sc()

    def jobs() -> dict[int, str | None]:
        context.listenerBus().waitUntilEmpty()
        listed = context.statusStore().jobsList(None)
        found = [listed.apply(n) for n in range(listed.size())]
        return {j.jobId(): j.description().get() if j.description().isDefined() else None for j in found}  # fmt: skip

    def descriptions(rows: int) -> set[str | None]:
        before = jobs()
        assert spark.range(rows).repartition(2).count() == rows
        return {name for job, name in jobs().items() if job not in before}

    with pytest.raises(ZeroDivisionError), run.stage("train"):
        assert descriptions(2) == {"gme-lake build-index: train (run run-1)"}
        with run.stage("probe"):
            assert descriptions(3) == {"gme-lake build-index: probe (run run-1)"}
        assert descriptions(4) == {"gme-lake build-index: train (run run-1)"}
        raise ZeroDivisionError
    assert not any("gme-lake" in (name or "") for name in descriptions(5))
