#!/bin/sh
# Builds the images of the steps and of the server, or that of MLflow's server:
# `build.sh [data|validate|train|serve|mlflow]...`; without a name all but the last. Settings come from the environment;
# see docs/images.md. Needs BuildKit (docker 23 or newer, or DOCKER_BUILDKIT=1), or podman or buildah.
set -eu
docker=${DOCKER:-docker} registry=${REGISTRY:-vitalfuse} tag=${TAG:-latest} variant=${VARIANT:-cpu}
network=${BUILD_NETWORK:-}

fail() { echo "images: $*" >&2; exit 2; }

case $variant in cpu | cuda) ;; *) fail "VARIANT is cpu or cuda; received $variant" ;; esac
command -v "$docker" >/dev/null || fail "$docker is not installed"

version=$(sed -n 's/^version = //p' setup.cfg)
revision=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

[ $# -gt 0 ] || set -- data validate train serve
for image; do
    lock=$image containerfile=infra/images/Containerfile name=$registry/$image-python:$tag
    case $image in
    data | validate | train | serve) ;;
    mlflow) containerfile=infra/images/mlflow/Containerfile name=$registry/mlflow:$tag ;;
    *) fail "images are data, validate, train, serve and mlflow; received $image" ;;
    esac
    if [ "$image-$variant" = train-cuda ]; then lock=train-cuda; fi
    echo "images: $name"
    DOCKER_BUILDKIT=1 "$docker" build . --file "$containerfile" --tag "$name" \
        ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} \
        --build-arg IMAGE="$image" --build-arg LOCK="$lock" \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" \
        ${PIP_CONF:+--secret id=pip_conf,src="$PIP_CONF"} \
        ${CA_BUNDLE:+--secret id=ca_bundle,src="$CA_BUNDLE"} \
        ${network:+--network "$network"}
done
