"""Airflow DAG: refresh the lake every night.

Airflow 3.0.6 has loaded it and run its operator with a stand-in for gme-lake; no scheduler has seen it. Put it into the DAG
folder of an Airflow 2.11 or later (with apache-airflow-providers-standard) whose workers have gme-lake and Spark, and
products.yaml where SETTINGS says.
"""

from datetime import datetime

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

SETTINGS = "/etc/gme-lake/products.yaml"
ACTIVE = 6  # another refresh is at work: this one has nothing to do

# The operator reads both outputs as one, and what comes last there is a log line of some library. So the result, one
# JSON object, is kept and said again at the end: XCom has it after a success, the log always.
COMMAND = f'result=$(gme-lake refresh-lake --config {SETTINGS} --json); status=$?; echo "$result"; exit $status'

with DAG(
    dag_id="gme_lake_refresh",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    # No retries: a run that was killed is continued by the next one, and what the gate has refused (status 3), what
    # costs too much (4) and rows that are lost (5) are for people to look at. A retry would even hide a refusal: it
    # leaves the refused model alone and succeeds. The JSON has outcome, release, counts, seconds, cost, reasons.
    BashOperator(
        task_id="refresh_lake",
        bash_command=COMMAND,
        do_xcom_push=True,
        skip_on_exit_code=ACTIVE,
        retries=0,
    )
