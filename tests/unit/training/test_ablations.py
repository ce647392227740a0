"""Ablations without Spark: strategies as data and what is refused, the table, the kept file, plot and notebook."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from jobs.settings.load import load_settings
from jobs.stages.train.ablation_report import Ablation, StrategyResult, plot, results_table
from jobs.stages.train.strategies import load_strategies, strategy_settings
from udfs.bootstrap import Score
from udfs.errors import SettingsError

NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks/ablations.ipynb"


def settings_of(*sets):
    return load_settings(files=["gme-tiny.yaml"], sets=sets, env={})


def test_the_kept_strategies_are_trainings_of_gme_tiny_and_say_what_they_change():
    settings = settings_of("ablate.trained=/a/checkpoint")
    strategies = load_strategies(settings)
    usual = settings.train.model_dump()
    for name, strategy in strategies.items():
        train = strategy_settings(settings, name, strategy, seed=3).model_dump()
        changed = {key for key in train if train[key] != usual[key]} - {"seed"}
        assert changed <= set(strategy.train), name
        assert train["seed"] == 3
    assert next(iter(strategies.values())).against is None
    assert strategies["lora_r4"].against == "lora_r8"
    assert strategies["lora_r8"].against is None
    assert strategies["mean_pooling"].against == "mixture"
    trained = strategy_settings(settings, "lora_r4", strategies["lora_r4"], seed=0)
    assert (trained.base, trained.lora_rank) == ("/a/checkpoint", 4)


def test_strategies_can_be_chosen():
    asked = settings_of("ablate.only=data_1_8,mean_pooling", "ablate.seeds=0,4")
    assert {name: s.against for name, s in load_strategies(asked).items()} == {
        "mean_pooling": None,
        "data_1_8": "mean_pooling",
    }
    assert asked.ablate.seeds == [0, 4]


@pytest.mark.parametrize(
    ("strategies", "word"),
    [
        ({}, "mapping"),
        ({"a": {"train": {"temprature": 0.1}}}, "train.temprature"),
        ({"a": {"train": {"temperature": -1}}}, "train.temperature"),
        ({"a": {"trian": {}}}, "trian"),
        ({"a": {"train": {"output": "x"}}}, "output"),
        ({"a": {"train": {"validation": "x"}}}, "validation"),
        ({"a/b": {}}, "a/b"),
        ({"a": {}, "b": {"against": "c"}}, "compared with c"),
        ({"a": {"train": {"base": "trained"}}}, "ablate.trained"),
        ({"a": {"train": {"lora_rank": 4}}}, "lora_rank"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(strategies, word, tmp_path):
    file = tmp_path / "strategies.yaml"
    file.write_text(json.dumps({"strategies": strategies}))
    with pytest.raises(SettingsError, match=word):
        load_strategies(settings_of(f"ablate.strategies={file}"))


def test_a_name_that_no_strategy_has_is_refused():
    with pytest.raises(SettingsError, match="mixtur'"):
        load_strategies(settings_of("ablate.only=mixtur"))


def score(mean):
    return Score(mean, mean - 0.02, mean + 0.03, 540)


@pytest.fixture
def ablation():
    def result(name, train, mean, change=None, paper=None):
        columns = ("drawn/t2i", "single", "cross", "fused", "average")
        return StrategyResult(
            name=name,
            train=train,
            against="mixture" if change else None,
            paper=paper,
            steps=1200,
            seconds=61.25,
            scores={column: score(mean) for column in columns},
            change={column: score(change) for column in columns} if change else None,
        )

    return Ablation(
        metric="ndcg@10",
        seeds=(0, 1),
        train={"share_of_data": 1.0, "steps": 1200},
        strategies=(
            result("mixture", {}, 0.75),
            result("half", {"share_of_data": 0.5}, 0.625, -0.125),
            result("mean", {"pooling": "mean"}, 0.5, -0.25, paper=-0.41),
        ),
    )


def test_what_is_written_is_read_again(ablation, tmp_path):
    ablation.write(tmp_path / "ablations.json")
    assert Ablation.read(tmp_path / "ablations.json") == ablation


def test_the_table_has_a_row_a_strategy_with_intervals_and_the_papers_change(ablation):
    lines = results_table(ablation).splitlines()
    assert lines[0] == "ndcg@10 x 100, seeds 0, 1"
    rows = {
        cells[1]: cells for cells in ([c.strip() for c in line.split("|")] for line in lines[4:])
    }
    assert list(rows) == ["mixture", "half", "mean"]
    assert rows["half"][5:8] == ["62.5 [60.5, 65.5]", "-12.5 [-14.5, -9.5]", "mixture"]
    assert rows["mixture"][6:9] == ["", "", ""]
    assert rows["mean"][8:11] == ["-0.41", "1,200", "61"]


def test_a_verdict_is_given_where_the_interval_has_no_zero(ablation):
    verdicts = [result.verdict for result in ablation.strategies]
    assert verdicts == ["compared with none", "worse", "worse"]
    small = replace(ablation.strategies[1], change={"average": score(0.01)})
    assert small.verdict == "not told apart"
    assert replace(small, change={"average": score(0.1)}).verdict == "better"


def test_the_scaling_curve_has_the_sizes_alone(ablation):
    assert [(share, r.name) for share, r in ablation.scaling()] == [(0.5, "half"), (1.0, "mixture")]


def test_the_plot_shows_every_strategy_and_the_scaling_curve(ablation, tmp_path):
    figure = plot(ablation)
    bars, curve = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["mixture", "half", "mean"]
    assert [t.get_text() for t in bars.get_legend().get_texts()] == [
        "single",
        "cross",
        "fused",
        "average",
    ]
    assert list(curve.containers[0].lines[0].get_xdata()) == [0.5, 1.0]
    assert list(curve.containers[0].lines[0].get_ydata()) == [0.625, 0.75]
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_notebook_shows_table_and_plots_of_a_results_file(ablation, tmp_path):
    ablation.write(tmp_path / "ablations.json")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o]
    text = "".join("".join(output["data"].get("text/markdown", "")) for output in shown)
    assert "62.5 [60.5, 65.5]" in text
    assert sum("image/png" in output["data"] for output in shown) == 1
