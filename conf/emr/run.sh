#!/usr/bin/env bash
# gme-lake on EMR: register-model and refresh-lake as steps of a cluster with GPU core nodes.
# Not run here: this project's tests check fields, commands and settings, but no account has seen it.
#
# In steps.json, BUCKET and MLFLOW_HOST stand for yours. bootstrap.sh (yours, in the same bucket) makes
# /mnt/gme-lake, a Python with `pip install gme_lake-….whl[model] mlflow` but without pyspark, and copies the
# checkpoint to /mnt/checkpoints on every node.
#
# A step whose command ends with another status than 0 is FAILED, and the steps after it are cancelled. What refresh-lake
# came to (released, or refused and why: status 3; over budget: 4; rows lost: 5; another one active: 6) is the JSON
# object at the end of the step's stdout. Add that step alone to refresh again; one that was killed goes on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${BUCKET:?set BUCKET, e.g. my-bucket}" "${WHEEL:?set WHEEL to the built gme_lake-….whl}"
# The wheel under another name: a file called .whl does not get on the executors' import path.
aws s3 cp "$WHEEL" "s3://$BUCKET/gme-lake/gme_lake.zip"
aws s3 cp "$here/../standalone/gme_lake.py" "s3://$BUCKET/gme-lake/gme_lake.py"
cluster=$(aws emr create-cluster --name gme-lake --release-label emr-8.1.0 --applications Name=Spark \
    --use-default-roles --configurations "file://$here/cluster.json" \
    --bootstrap-actions "Path=s3://$BUCKET/gme-lake/bootstrap.sh" \
    --instance-groups InstanceGroupType=MASTER,InstanceCount=1,InstanceType=m6i.xlarge \
    InstanceGroupType=CORE,InstanceCount=2,InstanceType=g5.4xlarge \
    --query ClusterId --output text)
steps=$(mktemp)
trap 'rm -f "$steps"' EXIT
sed -e "s/BUCKET/$BUCKET/g" -e "s/MLFLOW_HOST/${MLFLOW_HOST:?set MLFLOW_HOST}/g" "$here/steps.json" >"$steps"
aws emr add-steps --cluster-id "$cluster" --steps "file://$steps"
