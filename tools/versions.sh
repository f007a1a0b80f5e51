#!/usr/bin/env bash
# Tests the oldest and newest versions that pyproject.toml allows, on every Python that is there.
#
#   tools/versions.sh                         all combinations
#   tools/versions.sh oldest 3.11             one of them
#   TESTS="tests/runs tests/cli" tools/versions.sh newest 3.13
#
# Each combination gets a virtual environment below .versions/, and its row in docs/versions.md: the
# versions that were installed and what became of the tests. Everything is tested without the network.
set -euo pipefail
cd "$(dirname "$0")/.."

ends=${1:-oldest newest}
pythons=${2:-3.11 3.12 3.13}
extras=${EXTRAS:-mjx video sweep slurm onnx}
tests=${TESTS:-tests/config tests/policies/test_noise.py tests/policies/formats tests/runs/test_checkpoints.py tests/runs/test_folder.py tests/runs/test_earlier.py tests/tasks/engines/test_native.py tests/tasks/engines/lanes/test_rollout.py tests/cli/test_train.py tests/house/test_fuzz.py}
table=docs/versions.md
# what old libraries say of newer ones that they use is no failure of this one
deprecated=(-W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning)

requirements() { # oldest|newest: every dependency and extra as it stands, or at its lower bound
    python3 - "$1" $extras <<'PYTHON'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
optional = project["optional-dependencies"]
for line in [*project["dependencies"], *(line for extra in sys.argv[2:] for line in optional[extra])]:
    name, bound = re.match(r"([A-Za-z0-9_.\[\]-]+)[^>]*>=([^,]+)", line).groups()
    print(f"{name}=={bound}" if sys.argv[1] == "oldest" else line)
PYTHON
}

installed() { # of a virtual environment: what the requirements name
    "$1/bin/python" - "$1/requirements.txt" <<'PYTHON'
import re, sys
from importlib.metadata import version
names = [re.split(r"[<>=\[]", line)[0] for line in open(sys.argv[1])]
print(", ".join(f"{name} {version(name)}" for name in dict.fromkeys(names)))
PYTHON
}

find_python() { # one that starts: pyenv's stand-ins may not
    local python
    for python in "$(command -v "python$1")" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
        if [ -x "$python" ] && "$python" -c "" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

row() { # end, Python, versions, result: instead of the row that is there of these
    local old="^| [0-9-]* | $1 | $2\."
    sed -i "/$old/d" "$table"
    printf '| %s | %s | %s | %s | %s |\n' "$(date +%F)" "$1" "$2.$(cut -d. -f3 <<<"$3")" "$5" "$4" | tee -a "$table"
}

for version in $pythons; do
    python=$(find_python "$version") || true
    if [ -z "$python" ]; then
        echo "there is no Python $version here"
        continue
    fi
    full=$("$python" -c 'import platform; print(platform.python_version())')
    for end in $ends; do
        venv=$PWD/.versions/$end-$version
        pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check --no-compile)
        rm -rf "$venv"
        "$python" -m venv "$venv"
        requirements "$end" >"$venv/requirements.txt"
        if ! "${pip[@]}" -r "$venv/requirements.txt" pytest hypothesis typeguard evosax >"$venv/pip.log" 2>&1 ||
            ! "${pip[@]}" --no-deps -e . >>"$venv/pip.log" 2>&1; then
            row "$end" "$version" "$full" "not installable: $(grep -m1 ERROR "$venv/pip.log" | cut -c1-120)" "-"
            continue
        fi
        # shellcheck disable=SC2086
        JAX_COMPILATION_CACHE_DIR=$venv/jax PYTHONPATH= \
            "$venv/bin/python" -m pytest -m "not slow" -p no:cacheprovider "${deprecated[@]}" $tests >"$venv/tests.log" 2>&1 || true
        row "$end" "$version" "$full" "$(tail -1 "$venv/tests.log" | tr -d '=' | xargs)" "$(installed "$venv")"
    done
done
