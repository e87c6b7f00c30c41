#!/usr/bin/env bash
# Sets up a virtual environment in the repository once and prints the path of its Python.
#
#   environments/setup_env.sh NAME [PIP ARGUMENT ...]
#   environments/setup_env.sh                          prints the Python to build on, sets up nothing
#
# Installs torch where it is missing, then requirements.txt and what the arguments name. With the
# same files and arguments a second call does nothing. setup_env.ps1 is the same for Windows.
#
#   PYTHON  the Python to build on, 3.10 or newer; if it has torch, that torch is used
#   TORCH   what pip installs where torch is missing
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
torch=${TORCH:-torch==2.13.0}

say() { echo "$*" >&2; }

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "install Python 3.10 or newer, or name one: PYTHON=/path/to/python" \
        "(tried ${candidates[*]})"
    return 1
}

if [ $# -eq 0 ]; then
    find_python
    exit
fi
folder=$root/$1
shift
# cksum alone knows nothing of where an argument ends: one a line
wanted=$({ cat "$root/requirements.txt" "$root"/environments/*.txt
           printf '%s\n' "$torch" "$@"; } | cksum)
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
    say "setting up $folder"
    if [ ! -e "$folder/installed" ]; then
        base=$(find_python)
        options=(--clear) # a setup that was interrupted starts again
        if "$base" -c 'import torch' 2>/dev/null; then
            options+=(--system-site-packages)
        fi
        if ! "$base" -m venv "${options[@]}" "$folder" >&2; then
            say "install Python's venv module (Debian: apt install python3-venv) and try again"
            exit 1
        fi
    fi
fi
python=$folder/bin/python
[ -e "$python" ] || python=$folder/Scripts/python.exe # Windows
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
    # torch first: the packages that need it would otherwise choose its build
    if ! "$python" -c 'import torch' 2>/dev/null; then
        # shellcheck disable=SC2086  # TORCH may hold pip's own flags
        "$python" -m pip install --quiet --no-compile $torch >&2
    fi
    (cd "$root" && "$python" -m pip install --quiet --no-compile -r requirements.txt "$@" >&2)
    echo "$wanted" >"$folder/installed"
fi
echo "$python"
