#!/bin/sh
# Makes one environment from its lock file: `setup.sh main|validate PYTHON FOLDER UV [MAIN_FOLDER]`.
# UV is empty where uv is not there; then pip does the work.
set -eu
what=$1 python=$2 folder=$3 uv=$4

fail() { echo "setup: $*" >&2; exit 2; }

create() {  # create PYTHON FOLDER
    rm -rf "$2"
    if [ -n "$uv" ]; then "$uv" venv --quiet --python "$1" "$2"
    else "$1" -m venv "$2" || fail "python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; fi
}

install() {  # install ARGUMENT...: into $folder
    if [ -n "$uv" ]; then "$uv" pip install --quiet --compile-bytecode --python "$folder/bin/python" "$@"
    else "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; fi
}

# TFDV imports farmhash, which has no wheel. Where there is no C++ compiler to build it, a stand-in takes its place: TFDV
# calls it only to split very wide tables over workers, which this package does not do.
install_farmhash() {  # install_farmhash LOCK
    requirement=$(grep -o '^pyfarmhash==[^ ]*' "$1")
    install --no-deps "$requirement" 2>/dev/null && return
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' 'import hashlib' '' '' 'def fingerprint64(text):' \
        '    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")' > "$site/farmhash.py"
}

imports_tfdv() { "$1" -c 'import tensorflow_data_validation' >/dev/null 2>&1; }

[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$python is no Python 3.11, 3.12 or 3.13"

case $what in
main)
    echo "setup: $folder (about 3 GB)"
    create "$python" "$folder"
    # TFDV 1.21 needs glibc 2.39; there it shares this environment.
    if "$python" -c 'import os, sys
sys.exit(tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))) < (2, 39))' 2>/dev/null; then
        grep -v '^pyfarmhash==' infra/locks/requirements-tfdv.txt > "$folder/requirements.txt"
        install --no-deps -r "$folder/requirements.txt"
        install_farmhash infra/locks/requirements-tfdv.txt
    else
        install --no-deps -r infra/locks/requirements.txt
    fi
    install --no-deps -e .
    ;;
validate)
    if imports_tfdv "$5/bin/python"; then
        mkdir -p "$folder"
        echo "setup: TFDV shares $5"
    else
        echo "setup: $folder for TFDV (about 2 GB)"
        # TFDV 1.16.1, the newest for an older glibc, has wheels for Python 3.9 to 3.11.
        older=
        for candidate in python3.11 "$python"; do
            if [ -z "$older" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
            then older=$candidate; fi
        done
        [ -n "$older" ] || fail "TFDV needs glibc 2.39 or Python 3.11 on this machine; install python3.11"
        create "$older" "$folder"
        grep -v '^pyfarmhash==' infra/locks/requirements-validate.txt > "$folder/requirements.txt"
        install --no-deps -r "$folder/requirements.txt"
        install_farmhash infra/locks/requirements-validate.txt
        imports_tfdv "$folder/bin/python" ||
            fail "TFDV does not import: $("$folder/bin/python" -c 'import tensorflow_data_validation' 2>&1 | tail -1)"
    fi
    ;;
*) fail "takes main or validate; received $what" ;;
esac
touch "$folder/.installed"
