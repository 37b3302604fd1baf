#!/usr/bin/env bash
# An MLflow server with PostgreSQL behind it, a proxy for artifacts, and a login.
#
#   set -a; . ./mlflow.env; set +a; bash deploy/mlflow/serve.sh          (mlflow.env: see example.env)
#
# Every secret comes from the environment and stays there: PostgreSQL's library reads PGPASSWORD by itself, so the addresses of
# the databases hold no password, and no argument does. It listens on loopback unless MLFLOW_HOST says otherwise.
set -euo pipefail
: "${PGPASSWORD:?set it to the password of the databases (MLFLOW_DB_PASSWORD of create_databases.sh)}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?set it to the password of the user admin; MLflow takes it over at the first start}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?set it to a long random word: openssl rand -hex 32}"
: "${MLFLOW_ARTIFACTS:?set it to where artifacts go: s3://BUCKET/mlflow, gs://BUCKET/mlflow or a folder}"

place="${MLFLOW_DB_USER:-mlflow}@${MLFLOW_DB_HOST:-127.0.0.1}:${MLFLOW_DB_PORT:-5432}/${MLFLOW_DB_NAME:-mlflow}"
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
cat >"$settings/auth.ini" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = postgresql+psycopg2://${place}_auth
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH=$settings/auth.ini MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://$place
export MLFLOW_DISABLE_TELEMETRY=true

# Not exec: the folder goes when the server does. A signal is passed on.
hosts=()
if [ -n "${MLFLOW_ALLOWED_HOSTS:-}" ]; then hosts=(--allowed-hosts "$MLFLOW_ALLOWED_HOSTS"); fi
mlflow server --app-name basic-auth --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" \
  --workers "${MLFLOW_WORKERS:-2}" --artifacts-destination "$MLFLOW_ARTIFACTS" "${hosts[@]}" &
server=$!
trap 'kill -TERM $server 2>/dev/null' TERM INT
wait $server || code=$?
wait $server 2>/dev/null || true
exit "${code:-0}"
