#!/usr/bin/env bash
# The GPU check on a machine without a network: an environment of its own with the wheels of a folder and what is
# there already, then the check in it.
#   benchmarks/gpu_check.sh FOLDER_OF_WHEELS [options of benchmarks.gpu_check]
set -euo pipefail
wheels=${1:?give the folder of wheels}; shift
cd "$(dirname "$0")/.."
own=$(mktemp -d)
packages='import site; print("\n".join(site.getsitepackages()))'
python3 -m venv --without-pip "$own"
at=$("$own/bin/python" -c "$packages" | head -n 1)
python3 -c "$packages" >"$at/parent.pth"
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$at" "$wheels"/*.whl
exec "$own/bin/python" -m benchmarks.gpu_check "$@"
