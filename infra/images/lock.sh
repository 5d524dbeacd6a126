#!/bin/sh
# Resolves the lock file of each image from infra/images/requirements, at the versions of the main lock files. Needs uv.
set -eu
here=infra/images/requirements locks=infra/locks

resolve() {  # resolve NAME CONSTRAINTS EXCLUDED...
    name=$1 constraints=$2
    shift 2
    excluded=
    for list in "$@"; do excluded="$excluded --excludes $here/$list.txt"; done
    # shellcheck disable=SC2086
    uv pip compile "$here/$name.in" ${constraints:+--constraints "$constraints"} $excluded --upgrade --quiet \
        --python-version 3.13 --python-platform x86_64-manylinux_2_40 --no-header --no-annotate \
        --output-file "$locks/image-$name.txt"
}

resolve data $locks/requirements.txt excluded
resolve validate $locks/requirements-tfdv.txt excluded excluded-cpu excluded-validate
resolve train $locks/requirements.txt excluded excluded-cpu
resolve train-cuda $locks/requirements.txt excluded
resolve serve $locks/requirements.txt excluded-serve
resolve mlflow $locks/requirements.txt
resolve sbom ""
