"""Where the development data lies; tests that need it skip with a clear word where it does not."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(*parts: str) -> Path:
    """A path under the development data, or a skip that names what is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"development data not found: {path} (only in the developers' checkout)")
    return path
