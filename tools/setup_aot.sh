#!/usr/bin/env bash
# Builds an environment that compiles for NVIDIA GPUs on a machine that has none:
#
#     tools/setup_aot.sh DIR [PYTHON]
#
# DIR is made (or finished, if it is there already); PYTHON is 3.11 to 3.13, default python3. It takes
# a few minutes and 7 GB, nearly all of it NVIDIA's libraries, and leaves the environment you are in
# alone. What it is for: `DIR/bin/python tools/plan_memory.py CONFIG --target h100`, and the tests
# marked `aot`. The package itself is installed as a link to this checkout.
set -euo pipefail

# The compiler that is asked is the one in the plug-in; another version gives other numbers.
jax=0.10.2

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 DIR [PYTHON]" >&2
  exit 2
fi
directory=$1
base=${2:-python3}
python=$directory/bin/python
root=$(cd "$(dirname "$0")/.." && pwd)

if ! "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "error: $base is $("$base" -V 2>&1); curiojax needs Python 3.11 to 3.13" >&2
  exit 2
fi
if [ -e "$directory" ] && [ ! -x "$python" ]; then
  echo "error: $directory is there and is not a Python environment; name another directory" >&2
  exit 2
fi

[ -x "$python" ] || "$base" -m venv "$directory"
"$python" -m pip install --quiet --upgrade pip
"$python" -m pip install --quiet "jax[cuda12]==$jax" --editable "$root"

absolute=$(cd "$directory" && pwd)
if ! found=$(cd "$root" && JAX_PLATFORMS=cpu "$absolute/bin/python" -c '
import curiojax.planning.target as target
print(target.describe("h100"))' 2>&1); then
  echo "$found" | tail -n 3 >&2
  echo "error: $directory has JAX's CUDA plug-in, but it gives no target (see above)" >&2
  exit 1
fi
echo "$directory: $(echo "$found" | tail -n 1)" >&2

echo "export CURIOJAX_AOT_PYTHON=$absolute/bin/python"
