#!/usr/bin/env bash
# Tests the oldest and newest versions that pyproject.toml allows, on every Python that is there.
#
#   tools/versions.sh                         all combinations
#   tools/versions.sh oldest 3.11             one of them
#   TESTS="tests/runs tests/cli" tools/versions.sh newest 3.13
#
# Each combination gets a virtual environment below .versions/ and adds a row to tools/versions.md:
# the versions that were installed and what became of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

ends=${1:-oldest newest}
pythons=${2:-3.11 3.12 3.13}
tests=${TESTS:-tests/house/test_api.py tests/house/test_fuzz.py tests/runs/test_folder.py tests/runs/test_foreign.py tests/runs/test_checkpoints.py tests/cli/test_train.py tests/config}
table=tools/versions.md
shown="jax jaxlib numpy numba llvmlite mujoco orbax-checkpoint gymnasium scipy optax safetensors tyro rich matplotlib"

requirements() { # what is installed: every dependency as it stands, or at its lower bound
    python3 - "$1" <<'PYTHON'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for line in project["dependencies"]:
    name, bound = re.match(r"([A-Za-z0-9_.-]+)[^>]*>=([^,]+)", line).groups()
    # 0.10 is a whole series; its first release is 0.10.0, which pip takes it for
    print(f"{name}=={bound}" if sys.argv[1] == "oldest" else line)
PYTHON
}

find_python() {
    command -v "python$1" 2>/dev/null || ls -d "$HOME"/.pyenv/versions/"$1".*/bin/python 2>/dev/null | tail -1
}

row() { # end, Python, versions, result
    [ -f "$table" ] || printf '| day | versions | Python | installed | result |\n| --- | --- | --- | --- | --- |\n' >"$table"
    printf '| %s | %s | %s | %s | %s |\n' "$(date +%F)" "$1" "$2" "$3" "$4" | tee -a "$table"
}

for version in $pythons; do
    python=$(find_python "$version") || true
    if [ -z "$python" ]; then
        echo "there is no Python $version here"
        continue
    fi
    for end in $ends; do
        venv=.versions/$end-$version
        rm -rf "$venv"
        "$python" -m venv "$venv"
        requirements "$end" >"$venv/requirements.txt"
        if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$venv/requirements.txt" \
            pytest hypothesis typeguard pytest-xdist >"$venv/pip.log" 2>&1 ||
            ! "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -e . >>"$venv/pip.log" 2>&1; then
            row "$end" "$version" "-" "not installable: $(grep -m1 ERROR "$venv/pip.log" | cut -c1-120)"
            continue
        fi
        installed=$("$venv/bin/python" - $shown <<'PYTHON'
import sys
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in sys.argv[1:]))
PYTHON
        )
        # shellcheck disable=SC2086
        "$venv/bin/python" -m pytest -q -m "not slow" -p no:cacheprovider $tests >"$venv/tests.log" 2>&1 || true
        row "$end" "$version" "$installed" "$(tail -1 "$venv/tests.log")"
    done
done
