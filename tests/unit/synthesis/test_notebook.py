"""The notebook of synthesised pairs, from a file as the bench writes it."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks/synthesis.ipynb"


@pytest.mark.slow
def test_the_notebook_shows_what_was_made_and_left_out(tmp_path):
    pair = {
        "direction": "it2t",
        "query_text": "What is this <b>product</b> made of?",
        "query_image": "AAAA",
        "positive_text": "A mug.",
        "positive_image": None,
        "positive_rank": 2,
        "answers": [{"step": "query", "raw": ['{"query": "x"}']}],
    }
    report = {
        "pairs": [{"direction": "it2t", "domain": "tool", "pairs": 1}],
        "rejects": [
            {"step": "query", "reason": "cut", "direction": None, "domain": None, "rows": 3}
        ],
        "spent": {"query": {"tokens": 5, "cost": 0.0, "requests": 4, "seconds": 1.0}},
    }
    (tmp_path / "examples.json").write_text(json.dumps({"report": report, "pairs": [pair]}))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o]
    assert len(shown) == 4
    page = shown[-1]["data"]["text/html"]
    assert "&lt;b&gt;product" in page and "base64,AAAA" in page
