#!/bin/sh
# Makes one environment from its lock file: `setup.sh main|validate PYTHON FOLDER UV [MAIN_FOLDER]`.
# UV is empty where uv is not there; then pip does the work.
set -eu
what=$1 python=$2 folder=$3 uv=$4

fail() { echo "setup: $*" >&2; exit 2; }

create() {  # create PYTHON FOLDER
    rm -rf "$2"
    if [ -n "$uv" ]; then "$uv" venv --quiet --python "$1" "$2"
    else "$1" -m venv "$2" || fail "python's venv module is missing; on Debian: apt install python3-venv"; fi
}

install() {  # install FOLDER ARGUMENT...
    target=$1; shift
    if [ -n "$uv" ]; then "$uv" pip install --quiet --compile-bytecode --python "$target/bin/python" "$@"
    else "$target/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; fi
}

imports_tfdv() { "$1" -c 'import tensorflow_data_validation' >/dev/null 2>&1; }

[ -n "$python" ] || fail "no python3 found; install Python 3.11, 3.12 or 3.13"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$("$python" --version) found; vitalfuse needs Python 3.11, 3.12 or 3.13 (make PYTHON=...)"

case $what in
main)
    echo "setup: $folder (about 3 GB)"
    create "$python" "$folder"
    install "$folder" -r infra/locks/requirements.txt
    install "$folder" --no-deps -e .
    # TFDV 1.21 needs glibc 2.39; there it shares this environment.
    if "$folder/bin/python" -c 'import os, sys; v = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
sys.exit(tuple(map(int, v.split("."))) < (2, 39))' 2>/dev/null; then
        install "$folder" --no-deps -r infra/locks/requirements-tfdv.txt
    fi
    ;;
validate)
    main=$5
    if imports_tfdv "$main/bin/python"; then
        mkdir -p "$folder"
        echo "setup: TFDV shares $main"
    else
        echo "setup: $folder for TFDV (about 2 GB)"
        # TFDV 1.16.1, the newest for older glibc, has wheels for Python 3.9 to 3.11.
        older=$(command -v python3.11 || true)
        [ -n "$older" ] || { "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && older=$python; } ||
            fail "TFDV needs glibc 2.39 or Python 3.11 on this machine; install python3.11 (Debian 12 has it)"
        create "$older" "$folder"
        install "$folder" --no-deps -r infra/locks/requirements-validate.txt
        imports_tfdv "$folder/bin/python" ||
            fail "TFDV does not import in $folder: $("$folder/bin/python" -c 'import tensorflow_data_validation' 2>&1 | tail -1)"
    fi
    ;;
*) fail "main or validate; received $what" ;;
esac
touch "$folder/.installed"
