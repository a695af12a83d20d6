#!/usr/bin/env bash
# Start the tracking server of a team; see docs/server.md. Settings come from the environment, so that no password
# stands on a command line.
set -euo pipefail
for name in DPIB_DATABASE DPIB_AUTH_DATABASE DPIB_ARTIFACTS DPIB_ALLOWED_HOSTS MLFLOW_AUTH_ADMIN_PASSWORD \
    MLFLOW_FLASK_SERVER_SECRET_KEY; do
    if [ -z "${!name:-}" ]; then
        echo "set $name first (docs/server.md)" >&2
        exit 1
    fi
done
if [ "${#MLFLOW_AUTH_ADMIN_PASSWORD}" -lt 12 ] || [ "$MLFLOW_AUTH_ADMIN_PASSWORD" = password1234 ]; then
    echo "MLFLOW_AUTH_ADMIN_PASSWORD must have at least 12 characters, and not be MLflow's old default" >&2
    exit 1
fi
umask 077
config=$(mktemp)
trap 'rm -f "$config"' EXIT
cat > "$config" <<INI
[mlflow]
default_permission = READ
database_uri = $DPIB_AUTH_DATABASE
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH=$config
export MLFLOW_BACKEND_STORE_URI=$DPIB_DATABASE
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
${PYTHON:-python} -m mlflow server --app-name basic-auth --serve-artifacts --artifacts-destination "$DPIB_ARTIFACTS" \
    --host "${DPIB_HOST:-127.0.0.1}" --port "${DPIB_PORT:-5000}" --workers "${DPIB_WORKERS:-2}" \
    --allowed-hosts "$DPIB_ALLOWED_HOSTS"
