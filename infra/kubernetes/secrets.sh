#!/bin/sh
# Creates the secrets that infra/kubernetes refers to, where they are absent: `secrets.sh small` or
# `secrets.sh production`. Passwords and keys are made here, at random; what only you know comes from the environment:
# for production, DATABASE_HOST, DATABASE_PORT, DATABASE_NAME, DATABASE_USER, DATABASE_PASSWORD, DATABASE_CA (a file),
# MLFLOW_S3_ACCESS_KEY_ID and MLFLOW_S3_SECRET_ACCESS_KEY; where sources lie in S3, also S3_ACCESS_KEY_ID and
# S3_SECRET_ACCESS_KEY. VITALFUSE_PSEUDONYM_KEY, VITALFUSE_EVIDENCE_KEY, VITALFUSE_SERVE_TOKEN and
# VITALFUSE_PREDICTION_KEY are taken from the environment where they are there, so that pseudonyms stay the same, earlier
# versions can be compared, and callers keep their token.
set -eu
overlay=${1:-} kubectl=${KUBECTL:-kubectl} namespace=${NAMESPACE:-vitalfuse}

shortest=16  # characters of a token or key that the server takes

fail() { echo "secrets: $*" >&2; exit 2; }
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
needed() { for name; do eval "[ -n \"\${$name:-}\" ]" || fail "$name is not in the environment"; done; }

# Values go through files that only their owner reads, since arguments show in the list of processes.
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Not every shell runs the line above when a signal ends it.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

is_there() { $kubectl --namespace "$namespace" get secret "$1" >/dev/null 2>&1; }
stored() { $kubectl --namespace "$namespace" get secret "$1" --output "jsonpath={.data.$2}" | base64 -d; }

secret() {  # secret NAME KEY=VALUE...
    name=$1
    shift
    if is_there "$name"; then
        echo "secrets: $name is there already" >&2
        return
    fi
    mkdir "$work/$name"
    for pair; do printf %s "${pair#*=}" >"$work/$name/${pair%%=*}"; done
    $kubectl --namespace "$namespace" create secret generic "$name" --from-file="$work/$name"
}

for name in VITALFUSE_SERVE_TOKEN VITALFUSE_PREDICTION_KEY; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || [ ${#value} -ge $shortest ] || fail "$name is shorter than $shortest characters"
done

case $overlay in
small)
    DATABASE_HOST=postgres DATABASE_PORT=5432 DATABASE_NAME=mlflow DATABASE_USER=mlflow DATABASE_PASSWORD=$(random)
    # One S3 server with one user: the steps read their sources with the same key, also where one secret was lost.
    MLFLOW_S3_ACCESS_KEY_ID=$(random | cut -c1-20) MLFLOW_S3_SECRET_ACCESS_KEY=$(random)
    for name in vitalfuse-mlflow-s3 vitalfuse-s3; do
        if is_there $name; then
            MLFLOW_S3_ACCESS_KEY_ID=$(stored $name access_key_id)
            MLFLOW_S3_SECRET_ACCESS_KEY=$(stored $name secret_access_key)
            [ -n "$MLFLOW_S3_ACCESS_KEY_ID" ] && [ -n "$MLFLOW_S3_SECRET_ACCESS_KEY" ] ||
                fail "$name has no access_key_id or no secret_access_key"
            break
        fi
    done
    S3_ACCESS_KEY_ID=$MLFLOW_S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY=$MLFLOW_S3_SECRET_ACCESS_KEY
    ;;
production)
    needed DATABASE_HOST DATABASE_PORT DATABASE_NAME DATABASE_USER DATABASE_PASSWORD DATABASE_CA \
        MLFLOW_S3_ACCESS_KEY_ID MLFLOW_S3_SECRET_ACCESS_KEY
    [ -f "$DATABASE_CA" ] && [ -r "$DATABASE_CA" ] || fail "DATABASE_CA names no file that can be read"
    ;;
*) fail "say small or production" ;;
esac

secret vitalfuse-pseudonyms key="${VITALFUSE_PSEUDONYM_KEY:-$(random)}"
secret vitalfuse-evidence key="${VITALFUSE_EVIDENCE_KEY:-$(random)}"
secret vitalfuse-database host="$DATABASE_HOST" port="$DATABASE_PORT" database="$DATABASE_NAME" \
    username="$DATABASE_USER" password="$DATABASE_PASSWORD"
secret vitalfuse-mlflow-s3 access_key_id="$MLFLOW_S3_ACCESS_KEY_ID" secret_access_key="$MLFLOW_S3_SECRET_ACCESS_KEY"
secret vitalfuse-mlflow-admin username=admin password="$(random)" form_key="$(random)"
secret vitalfuse-mlflow username=pipeline password="$(random)"
# Those that `vitalfuse deploy` names, for the served model.
secret vitalfuse-serve token="${VITALFUSE_SERVE_TOKEN:-$(random)}"
secret vitalfuse-predictions key="${VITALFUSE_PREDICTION_KEY:-$(random)}"
if [ -n "${S3_ACCESS_KEY_ID:-}" ]; then
    needed S3_SECRET_ACCESS_KEY
    secret vitalfuse-s3 access_key_id="$S3_ACCESS_KEY_ID" secret_access_key="$S3_SECRET_ACCESS_KEY"
fi
if [ "$overlay" = production ]; then
    secret vitalfuse-database-ca ca.crt="$(cat "$DATABASE_CA")"
fi
