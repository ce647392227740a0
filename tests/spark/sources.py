"""What `vectors` must hold for a source table, said without Spark's part of the job."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

TEMPLATE = "source.text={title} {description}"


def content_hash(row: Any, template: str) -> str:
    """sha-256 over what the model sees of a row of tests' source tables."""
    columns = [word for word in ("title", "description") if f"{{{word}}}" in template]
    values = {column: getattr(row, column) or "" for column in columns}
    text = template.removeprefix("source.text=").format_map(values).strip(" ")
    shown = sha256(text.encode()).hexdigest() if text and any(values.values()) else "-"
    picture = sha256(row.image).hexdigest() if row.image is not None else "-"
    return sha256(f"{shown}|{picture}".encode()).hexdigest()


def expected_hashes(shop: Any, template: str = TEMPLATE) -> dict[str, set[str]]:
    """The content hashes that each id of the source may have; several where rows repeat an id."""
    expected: dict[str, set[str]] = {}
    for row in shop.spark.read.format("delta").load(shop.table).collect():
        if row.id is not None:
            expected.setdefault(row.id, set()).add(content_hash(row, template))
    return expected


def assert_clean(shop: Any, template: str = TEMPLATE) -> None:
    """`vectors` has one row for every id of the source, with the content that the source has now, and no other row."""
    found = shop.vectors(shop.open_lake())
    expected = expected_hashes(shop, template)
    assert set(found) == set(expected)
    wrong = {i for i, row in found.items() if row.content_hash not in expected[i]}
    assert not wrong, f"vectors of another content: {sorted(wrong)}"
