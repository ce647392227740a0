"""Airflow DAG: refresh the lake every night.

Not run here: this project's tests check its command and settings, but no Airflow has seen it. Put it into the DAG folder
of an Airflow 2.4 or later whose workers have gme-lake and Spark, and products.yaml where SETTINGS says.
"""

from datetime import datetime

from airflow import DAG
from airflow.operators.bash import BashOperator

SETTINGS = "/etc/gme-lake/products.yaml"
ACTIVE = 6  # another refresh is at work: this one has nothing to do

with DAG(
    dag_id="gme_lake_refresh",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    # No retries: a run that was killed is continued by the next one, and what the gate has refused (status 3), what
    # costs too much (4) and rows that are lost (5) are for people to look at. The last line of output, which XCom
    # keeps, is JSON: outcome, release, counts, seconds, cost, reasons.
    BashOperator(
        task_id="refresh_lake",
        bash_command=f"gme-lake refresh-lake --config {SETTINGS} --json",
        do_xcom_push=True,
        skip_on_exit_code=ACTIVE,
        retries=0,
    )
