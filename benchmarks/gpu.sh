#!/usr/bin/env bash
# Measures all that is to be known of a GPU machine, in one go and without a network.
#
#   benchmarks/gpu.sh [OUT]         a folder to make; gpu-<time> if not given
#
# Settings, as environment variables:
#   PYTHON    the interpreter, 3.11 to 3.13, with JAX for CUDA          (python3)
#   WHEELS    a folder of wheels of what else is needed, put into OUT   (nothing is installed)
#   SIZES     numbers of policies to measure           (1024,4096,16384,32768,65536)
#   VARIANTS  which of: mjx command-buffers warp native gymnasium       (all that can run)
#   REPEATS   turns of each measurement, of which the median counts     (5)
#
# OUT then holds the findings of `epvf doctor`, and of each variant the results as JSON and CSV, a
# plot, and a log. A variant that fails is told in the summary, and the others go on. Without a GPU
# only the host's engine is measured, at small sizes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
repeats=${REPEATS:-5}
out=${1:-gpu-$(date +%Y%m%d-%H%M%S)}

fail() {
  echo "gpu.sh: $*" >&2
  exit 1
}

# Whether a module is there.
has() {
  "$python" -c "import sys; from importlib.util import find_spec; sys.exit(find_spec('$1') is None)"
}

# Runs `epvf bench ant` over the sizes; NAME, then variables as NAME=VALUE, then options.
measure() {
  local name=$1 variables=()
  shift
  while [[ ${1-} == *=* ]]; do
    variables+=("$1")
    shift
  done
  echo "== $name: ${variables[*]-} epvf bench ant $*"
  if ! env "${variables[@]}" "$python" -m epvf bench ant "$@" --repeats "$repeats" \
    --sweep "num_envs=$sizes" --out "$out/$name" --json \
    > "$out/$name.json" 2> >(tee "$out/$name.log" >&2); then
    echo "   failed, see $out/$name.log"
  fi
}

command -v "$python" > /dev/null || fail "$python is not there; set PYTHON"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
  fail "$python is $("$python" -V); Python 3.11 to 3.13 is needed: set PYTHON"
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
if [[ -n ${WHEELS-} ]]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade \
    --target "$out/site-packages" "$WHEELS"/*.whl
  export PYTHONPATH="$out/site-packages:$PYTHONPATH"
fi
has jax || fail "$python has no JAX; install it, or set PYTHON or WHEELS"
has mujoco || fail "$python has no MuJoCo; install it, or set PYTHON or WHEELS"

if command -v nvidia-smi > /dev/null && nvidia-smi > "$out/nvidia-smi.txt" 2>&1; then
  "$python" -c 'import sys, jax; sys.exit(jax.default_backend() != "gpu")' ||
    fail "there is a GPU, but JAX does not see it: pip install 'jax[cuda12]' or 'jax[cuda13]'"
  sizes=${SIZES:-1024,4096,16384,32768,65536}
  variants=${VARIANTS:-mjx command-buffers warp native gymnasium}
else
  echo "no NVIDIA GPU here: only the host's engine is measured, at small sizes"
  sizes=${SIZES:-64,256}
  variants=${VARIANTS:-native gymnasium}
fi

"$python" -m epvf doctor | tee "$out/doctor.txt"
for variant in $variants; do
  case $variant in
    mjx) measure mjx --backend mjx ;;
    command-buffers)
      # the rollout's loop as one graph on the device, without a launch for every kernel
      measure command-buffers \
        "XLA_FLAGS=${XLA_FLAGS-} --xla_gpu_enable_command_buffer=+WHILE" --backend mjx
      ;;
    warp)
      if has warp; then
        measure warp --backend warp
      else
        echo "== warp: not installed"
      fi
      ;;
    native) measure native --backend native ;;
    gymnasium)
      echo "== gymnasium: its AsyncVectorEnv on the host's processors"
      "$python" "$root/benchmarks/async_vector_env.py" --turns "$repeats" --json \
        > "$out/gymnasium.json" 2> "$out/gymnasium.log" ||
        echo "   failed, see $out/gymnasium.log"
      ;;
    *) fail "unknown variant $variant; valid: mjx command-buffers warp native gymnasium" ;;
  esac
done

echo
echo "== summary"
"$python" - "$out" << 'EOF' | tee "$out/summary.txt"
import json
import sys
from pathlib import Path

for file in sorted(Path(sys.argv[1]).glob("*.json")):
    text = file.read_text()
    told = json.loads(text) if text.strip() else {}
    if "async_steps_per_second" in told:
        print(
            f"{file.stem}: native {told['native_steps_per_second']:,.0f} env steps/s, "
            f"{told['ratio']:.1f} times those of AsyncVectorEnv on {told['cores']} cores"
        )
        continue
    rows = told.get("results", [])
    if not rows:
        print(f"{file.stem}: failed")
    for row in rows:
        if "error" in row:
            print(f"{file.stem}: num_envs {row['num_envs']}: {row['error']}")
            continue
        roof = row["roofline"]
        bound = f", {roof['fraction']:.1%} of the roofline" if roof else ""
        print(
            f"{file.stem}: num_envs {row['num_envs']}: {row['steps_per_second']:,.0f} env steps/s, "
            f"{row['ratio']:.2f} of bare stepping{bound}; iteration {row['iteration_ms']:,.0f} ms, "
            f"compiled in {row['rollout_compile_seconds']:.0f} s"
        )
EOF
echo "results: $out"
