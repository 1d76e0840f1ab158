#!/usr/bin/env bash
# Creates or updates .venv with the pinned packages; does nothing when it is up to date. "make setup" runs it.
# PYTHON=… picks the interpreter; otherwise it is the newest that works, first among those that get a CPU build of torch.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }

# An interpreter may be there and still not run (a version manager's shim), or lack the means to make a venv.
works() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

pip_install() { .venv/bin/python -m pip install -qq --disable-pip-version-check "$@"; }

installed_torch() {
    .venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])' 2>/dev/null
}

# torch comes first and exactly pinned: asked for loosely, pip would take the newest with gigabytes of CUDA packages.
torch=$(grep '^torch==' constraints.txt)

# .venv/.ready says what .venv was made from, and where: a moved tree has its old place in .venv's scripts.
recipe=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -d' ' -f1)
read -r ready_recipe ready_place 2>/dev/null <.venv/.ready || true
keep=false
if works .venv/bin/python && [ "${ready_place:-$PWD}" = "$PWD" ] && [ "$(installed_torch)" = "$torch" ]; then
    if [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version .venv/bin/python)" ]; then keep=true; fi
fi
if $keep && [ "${ready_recipe:-}" = "$recipe" ]; then exit 0; fi

new_venv() {
    say "creating .venv with $1"
    "$1" -m venv --clear .venv
}

cpu_torch() { # fails where pip finds no such build; any other trouble ends the set-up
    say "CPU torch ($torch+cpu) for Python $(version .venv/bin/python), about 200 MB"
    if errors=$(pip_install --no-deps "$torch+cpu" 2>&1); then return 0; fi
    if [[ $errors == *"No matching distribution found"* ]]; then return 1; fi
    echo "$errors" >&2
    exit 1
}

default_torch() {
    say "pip finds no CPU build of torch: installing its default one (on Linux with CUDA packages, several GB)"
    pip_install -c constraints.txt "$torch"
}

make_venv() {
    local candidates=(python3.13 python3.12 python3.11 python3) pythons=() name
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for name in "${candidates[@]}"; do
        if works "$name"; then pythons+=("$name"); fi
    done
    if [ ${#pythons[@]} -eq 0 ]; then
        {
            echo "error: no working Python 3.11, 3.12 or 3.13 with its venv module (tried: ${candidates[*]})"
            echo "mend:  install one (Debian and Ubuntu: apt-get install python3-venv),"
            echo "       or name one: make setup PYTHON=/path/to/python3.12"
        } >&2
        exit 2
    fi
    for name in "${pythons[@]}"; do
        new_venv "$name"
        if cpu_torch; then return; fi
    done
    if [ ${#pythons[@]} -gt 1 ]; then new_venv "${pythons[0]}"; fi
    default_torch
}

if $keep; then say "updating .venv"; else make_venv; fi
say "the other pinned packages"
pip_install -c constraints.txt -e '.[dev]'
echo "$recipe $PWD" >.venv/.ready
say "the kernels for this CPU"
.venv/bin/python -m runtime.executors.cpu.build || say "they cannot be built here: torch will compute instead"
say ".venv is ready: Python $(version .venv/bin/python)"
