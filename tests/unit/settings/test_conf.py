"""conf/: files of other platforms have the fields those document, and name commands and settings that exist."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from jobs.driver.cli import gme_lake
from jobs.driver.delta_jars import EXCLUDED, delta_package
from jobs.driver.session import LOCAL_CONF, ONE_PROCESS_CONF, RUNTIME_CONF, local_conf
from jobs.settings.load import load_settings
from jobs.settings.refresh import GateSettings
from udfs.errors import ActiveRunError, SettingsError

CONF = Path(__file__).resolve().parents[3] / "conf"
STRING = {"type": "string", "minLength": 1}
STRINGS = {"type": "array", "items": STRING, "minItems": 1}
STRING_MAP = {"type": "object", "additionalProperties": STRING}


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def mapping(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values, "minProperties": 1}


# The part of a platform's documented fields that these files may use; a field that is not here is a slip of the pen,
# or is to be looked up and added.
LIBRARY = {
    "oneOf": [closed({"whl": STRING}), closed({"pypi": closed({"package": STRING})})],
}
TASK = closed(
    {
        "task_key": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,100}$"},
        "job_cluster_key": STRING,
        "python_wheel_task": closed(
            {"package_name": STRING, "entry_point": STRING, "parameters": STRINGS}
        ),
        "libraries": array(LIBRARY),
    },
    {"depends_on": array(closed({"task_key": STRING})), "max_retries": {"type": "integer"}},
)
NEW_CLUSTER = closed(
    {
        "spark_version": {"type": "string", "pattern": r"^\d+\.\d+\.x-(gpu-ml-)?scala2\.1[23]$"},
        "node_type_id": STRING,
        "num_workers": {"type": "integer", "minimum": 0},
        "data_security_mode": {"enum": ["SINGLE_USER", "USER_ISOLATION", "NONE"]},
        "spark_conf": STRING_MAP,
    }
)
BUNDLE = closed(
    {
        "bundle": closed({"name": STRING}),
        "variables": mapping(closed({"description": STRING, "default": STRING})),
        "artifacts": mapping(closed({"type": {"const": "whl"}, "path": STRING, "build": STRING})),
        "resources": closed(
            {
                "jobs": mapping(
                    closed(
                        {
                            "name": STRING,
                            "job_clusters": array(
                                closed({"job_cluster_key": STRING, "new_cluster": NEW_CLUSTER})
                            ),
                            "tasks": array(TASK),
                        },
                        {
                            "max_concurrent_runs": {"type": "integer", "minimum": 1},
                            "schedule": closed(
                                {"quartz_cron_expression": STRING, "timezone_id": STRING}
                            ),
                        },
                    )
                )
            }
        ),
        "targets": mapping(
            closed(
                {"mode": {"enum": ["development", "production"]}}, {"default": {"type": "boolean"}}
            )
        ),
    }
)
STEPS = array(
    closed(
        {
            "Type": {"const": "CUSTOM_JAR"},
            "Name": STRING,
            "ActionOnFailure": {"enum": ["TERMINATE_CLUSTER", "CANCEL_AND_WAIT", "CONTINUE"]},
            "Jar": {"const": "command-runner.jar"},
            "Args": STRINGS,
        }
    )
)
CONFIGURATION = closed(
    {"Classification": STRING, "Properties": STRING_MAP},
    {"Configurations": array(closed({"Classification": STRING, "Properties": STRING_MAP}))},
)


def bundle() -> dict[str, Any]:
    return yaml.safe_load((CONF / "databricks/databricks.yml").read_text("utf-8"))


def tasks() -> list[dict[str, Any]]:
    return bundle()["resources"]["jobs"]["refresh_lake"]["tasks"]


def steps() -> list[dict[str, Any]]:
    return json.loads((CONF / "emr/steps.json").read_text("utf-8"))


def spark_defaults() -> dict[str, str]:
    """Active settings of conf/standalone/spark-defaults.conf, and those given in comments."""
    text = (CONF / "standalone/spark-defaults.conf").read_text("utf-8")
    return dict(re.findall(r"^(?:# )?(spark\.\S+)\s+(\S+)$", text, re.MULTILINE))


def settings_files() -> list[str]:
    """YAML files of conf/ that hold settings, not profiles of models, retrieval tasks, floors or strategies."""
    other = {"floors", "profiles", "strategies", "tasks"}

    return sorted(
        file.name
        for file in CONF.glob("*.yaml")
        if not other & set(yaml.safe_load(file.read_text("utf-8")))
    )


def check_command(words: list[str]) -> None:
    """Fail unless `gme-lake words…` parses, as a job that exists, with settings that exist and fit."""
    group = gme_lake()
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"no command {words[0]}"
    rest = words[1:]
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    given = command.make_context(words[0], rest).params
    load_settings(files=given["config"], sets=given["sets"], env={})


def test_databricks_bundle_has_documented_fields() -> None:
    jsonschema.validate(bundle(), BUNDLE)


def test_databricks_tasks_are_commands_of_the_wheel_in_order() -> None:
    variables = bundle()["variables"]
    known = {
        c["job_cluster_key"] for c in bundle()["resources"]["jobs"]["refresh_lake"]["job_clusters"]
    }
    before: list[str] = []
    for task in tasks():
        wheel = task["python_wheel_task"]
        assert (wheel["package_name"], wheel["entry_point"]) == ("gme-lake", "gme-lake")
        for word in wheel["parameters"]:
            assert set(re.findall(r"\$\{var\.(\w+)\}", word)) <= set(variables)
        check_command(wheel["parameters"])
        assert [d["task_key"] for d in task.get("depends_on", [])] == before[-1:]
        assert task["job_cluster_key"] in known
        assert task.get("max_retries", 0) == 0, "a retry would hide what the gate has refused"
        before.append(task["task_key"])
    assert before == ["register_model", "refresh_lake"]
    assert "--json" in tasks()[-1]["python_wheel_task"]["parameters"]


def test_emr_files_have_documented_fields() -> None:
    jsonschema.validate(steps(), STEPS)
    cluster = json.loads((CONF / "emr/cluster.json").read_text("utf-8"))
    jsonschema.validate(cluster, array(CONFIGURATION))


def test_emr_steps_submit_the_launcher_with_commands_that_exist() -> None:
    for step in steps():
        words = step["Args"]
        script = next(i for i, word in enumerate(words) if word.endswith("/gme_lake.py"))
        assert words[0] == "spark-submit"
        assert words[words.index("--py-files") + 1].endswith(".zip")
        check_command(words[script + 1 :])
    names = [step["Name"].split()[-1] for step in steps()]
    assert names == ["register-model", "refresh-lake"]
    assert "--json" in steps()[-1]["Args"]


def dag() -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants of the DAG's file, and what its operator is given of them: Airflow itself is not needed."""
    tree = ast.parse((CONF / "airflow/refresh_lake.py").read_text("utf-8"))
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = compile(ast.Expression(node.value), "dag", "eval")
            names[node.targets[0].id] = eval(value, dict(names))
    (operator,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "BashOperator"
    )
    given = {
        k.arg: eval(compile(ast.Expression(k.value), "dag", "eval"), dict(names))
        for k in operator.keywords
    }
    return names, given


def test_the_airflow_dag_runs_a_command_that_exists_and_knows_its_statuses(tmp_path: Path) -> None:
    names, given = dag()
    assert given["skip_on_exit_code"] == ActiveRunError.exit_code and given["retries"] == 0
    settings = tmp_path / "products.yaml"
    settings.write_text("source: {table: shop.products}")
    words = re.search(r"gme-lake ([^)]*)\)", given["bash_command"])[1]
    check_command(words.replace(names["SETTINGS"], str(settings)).split())


@pytest.mark.parametrize("status", [0, 3, 6])
def test_what_airflow_reads_ends_with_the_json_and_the_status(tmp_path: Path, status: int) -> None:
    """Its operator reads standard error together with standard output, and keeps the last line of both."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    command = tmp_path / "gme-lake"
    command.write_text(
        f"#!/bin/sh\necho log >&2\necho '{{\"outcome\": \"x\"}}'\necho 'last words' >&2\nexit {status}\n"
    )
    command.chmod(0o755)
    done = subprocess.run(
        [bash, "-c", dag()[1]["bash_command"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status
    assert json.loads(done.stdout.splitlines()[-1]) == {"outcome": "x"}


@pytest.mark.parametrize("file", settings_files())
def test_settings_files_load(file: str) -> None:
    is_default = load_settings(files=[file], env={}) == load_settings(env={})
    assert is_default == (file == "gate.yaml")


def test_a_stale_command_or_setting_would_be_seen() -> None:
    with pytest.raises(SettingsError, match="unknown setting"):
        check_command(["embed-table", "--set", "source.tabel=x"])
    with pytest.raises(AssertionError, match="no command"):
        check_command(["embed-tables"])
    with pytest.raises(click.UsageError):
        check_command(["embed-table", "--sets", "source.table=x"])


def test_standalone_settings_fit_the_installed_delta_and_the_local_session() -> None:
    conf = spark_defaults()
    assert conf["spark.jars.packages"] == delta_package()
    assert conf["spark.jars.excludes"] == EXCLUDED
    for name in ("spark.sql.extensions", "spark.sql.catalog.spark_catalog"):
        assert conf[name] == LOCAL_CONF[name]


@pytest.mark.parametrize(
    ("master", "alone"),
    [
        ("local", True),
        ("local[2,4]", True),
        ("local-cluster[1,1,1024]", False),
        ("spark://h:1", False),
    ],
)
def test_only_an_executor_in_the_drivers_process_may_be_silent_for_hours(master, alone) -> None:
    (name,) = ONE_PROCESS_CONF
    conf = local_conf(load_settings(sets=[f"spark.master={master}"], env={}), quick=False)
    assert (name in conf) is alone
    given = load_settings(sets=[f"spark.master={master}", f"spark.conf.{name}=9s"], env={})
    assert local_conf(given, quick=True)[name] == "9s"


@pytest.mark.parametrize(
    "conf",
    [
        spark_defaults(),
        bundle()["resources"]["jobs"]["refresh_lake"]["job_clusters"][0]["new_cluster"][
            "spark_conf"
        ],
        {
            name: value
            for part in json.loads((CONF / "emr/cluster.json").read_text("utf-8"))
            for name, value in part["Properties"].items()
        },
    ],
    ids=["standalone", "databricks", "emr"],
)
def test_gpu_slots_share_a_model_and_nothing_contradicts_the_session(conf: dict[str, str]) -> None:
    share = float(conf["spark.task.resource.gpu.amount"])
    assert 0 < share < 1
    assert (1 / share).is_integer()
    if "spark.executor.cores" in conf:
        assert int(conf["spark.executor.cores"]) * share == 1
    assert all(conf[name] == RUNTIME_CONF[name] for name in conf.keys() & RUNTIME_CONF.keys())


@pytest.mark.parametrize("script", sorted(str(p.relative_to(CONF)) for p in CONF.rglob("*.sh")))
def test_scripts_parse_and_say_what_they_need(script: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    subprocess.run([bash, "-n", str(CONF / script)], check=True)
    done = subprocess.run([bash, str(CONF / script)], env={}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "set " in done.stderr


def test_the_file_of_the_gate_has_every_threshold_at_its_default() -> None:
    assert yaml.safe_load((CONF / "gate.yaml").read_text()) == {"gate": GateSettings().model_dump()}
    assert load_settings(files=["gate.yaml"], env={}).gate == GateSettings()
