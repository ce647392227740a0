"""The service of SQL functions is Spark's driver's alone: elsewhere it is refused, with what to do instead."""

import pytest

from jobs.stages.sql.session_functions import register_functions
from udfs.errors import LakeError


def test_a_connect_client_is_told_to_have_the_lake_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    with pytest.raises(
        LakeError, match=r"behind Spark Connect.*serve_sql\.connect_port.*jobs\.register_functions"
    ):
        register_functions(None, None)  # type: ignore[arg-type]
