#!/usr/bin/env bash
# The GPU check on a machine without a network: installs the wheels of a folder beside what is there, then runs it.
#   benchmarks/gpu_check.sh FOLDER_OF_WHEELS [options of benchmarks.gpu_check]
set -euo pipefail
wheels=${1:?give the folder of wheels}; shift
cd "$(dirname "$0")/.."
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
PYTHONPATH="$PWD:$site" exec python3 -m benchmarks.gpu_check "$@"
