#!/usr/bin/env bash
# run.sh STEP.py ARGS...: runs a step on a pretended H200, from the project's root. PYTHON names the environment's python, PRETEND_GPU the
# folder of the built libraries and of the made-up weights and images (sparse files; default: the system's folder of temporary files).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PRETEND_GPU=${PRETEND_GPU:-${TMPDIR:-/tmp}/pretend-gpu}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$PRETEND_GPU/lib"
build() { # TARGET SOURCE FLAGS...: builds unless the target is newer than its source
  if [ "$2" -nt "$1" ]; then g++ -O1 -shared -fPIC "${@:3}" -o "$1.new" "$2" -ldl && mv "$1.new" "$1"; fi
}
include=$("$python" -c "import importlib.util as u; print(u.find_spec('triton').submodule_search_locations[0] + '/backends/nvidia/include')")
build "$PRETEND_GPU/runtime.so" "$here/runtime.cpp" "-I$include"
build "$PRETEND_GPU/lib/libcuda.so.1" "$here/driver.cpp"
step=$1
[ -e "$step" ] || step=$here/steps/$1
shift
export LD_LIBRARY_PATH=$PRETEND_GPU/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} OMP_NUM_THREADS=1 PYTHONPATH=$PWD:$here${PYTHONPATH:+:$PYTHONPATH}
LD_PRELOAD=$PRETEND_GPU/runtime.so exec "$python" "$step" "$@"
