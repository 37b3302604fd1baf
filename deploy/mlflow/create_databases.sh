#!/usr/bin/env bash
# Make the role and the two databases of an MLflow server, once; again it changes the role's password.
#
#   PGHOST=... PGUSER=postgres PGPASSWORD=... MLFLOW_DB_PASSWORD=... bash deploy/mlflow/create_databases.sh
#
# In the container of PostgreSQL it runs by itself (compose.yaml). Passwords come from the environment and go through psql's
# standard input: they are in no argument and in no file.
set -euo pipefail
: "${MLFLOW_DB_PASSWORD:?set it to the password that the MLflow server shall have}"
user=${MLFLOW_DB_USER:-mlflow} name=${MLFLOW_DB_NAME:-mlflow}
export PGUSER=${PGUSER:-${POSTGRES_USER:-postgres}}

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set user="$user" --dbname "${PGDATABASE:-postgres}" <<'SQL'
\getenv password MLFLOW_DB_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', :'user') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
ALTER ROLE :"user" PASSWORD :'password';
SQL
for database in "$name" "${name}_auth"; do  # each keeps its own version table
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set user="$user" --set database="$database" \
    --dbname "${PGDATABASE:-postgres}" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'user')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
done
