"""The state of a lake in lines: whether the model's loads were checked by canaries, and with what they were made."""

import io
from datetime import UTC, datetime

import pytest

from jobs.reports.lake_status import LakeStatus, print_status
from jobs.reports.release_table import ListedRelease

MADE = {"pillow": "13.0.0", "device": "cpu"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            MADE | {"canary_cosine": "0.9998000"},
            "canaries: lowest cosine 0.9998000; last loaded with pillow 13.0.0, device cpu",
        ),
        (
            MADE | {"canary_cosine": "unchecked"},
            "the model has no canaries, and what its loads serve is not checked (register-model with "
            "model.trial=true); last loaded with pillow 13.0.0, device cpu",
        ),
        ({}, None),
    ],
)
def test_what_checks_the_models_loads_is_told(environment, said) -> None:
    fields = dict.fromkeys(ListedRelease.__dataclass_fields__) | {
        "release_id": 1,
        "released_at": datetime(2026, 11, 26, tzinfo=UTC),
    }
    status = LakeStatus(ListedRelease(**fields), {"ok": 2}, environment, None, None, None, [])
    out = io.StringIO()
    print_status(status, file=out)
    lines = out.getvalue().splitlines()
    assert len(lines) == (3 if said else 2)
    assert said is None or lines[2] == said
