#!/usr/bin/env bash
# gme-lake on a Spark standalone cluster:
#
#   python -m build --wheel
#   export SPARK_HOME=/opt/spark SPARK_MASTER=spark://host:7077
#   conf/standalone/submit.sh embed-table --config lake.yaml --set source.table=/data/products
#
# Every executor needs a Python with the wheel's dependencies and torch (PYSPARK_PYTHON names it), and reads the
# lake, the source table and the checkpoint under the same paths. WHEEL names another wheel than the newest in
# dist/; SPARK_OPTIONS holds further options of spark-submit.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${SPARK_HOME:?set SPARK_HOME to the Spark installation}" "${SPARK_MASTER:?set SPARK_MASTER, e.g. spark://host:7077}"
wheel=${WHEEL:-$(ls -t "$here"/../../dist/gme_lake-*.whl 2>/dev/null | head -n 1 || true)}
[ -f "$wheel" ] || {
    echo "submit.sh: no wheel in dist/; make one with: python -m build --wheel (or set WHEEL)" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The wheel under another name: a file called .whl does not get on the executors' import path.
cp "$wheel" "$work/gme_lake.zip"
read -r -a options <<<"${SPARK_OPTIONS:-}"
"$SPARK_HOME/bin/spark-submit" --master "$SPARK_MASTER" \
    --properties-file "$here/spark-defaults.conf" --py-files "$work/gme_lake.zip" \
    ${options[@]+"${options[@]}"} "$here/gme_lake.py" "$@"
