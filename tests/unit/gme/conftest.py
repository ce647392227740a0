"""What the encoder's tests share: the golden checkpoint, loaded once."""

import pytest

from tests.shared import shared
from udfs.gme import Encoder


@pytest.fixture(scope="session")
def golden_path():
    return shared("gme_golden", "checkpoint")


@pytest.fixture(scope="session")
def reference(golden_path):
    return Encoder.load(golden_path, profile="reference")
