#!/bin/sh
# Start MLflow's server. It takes secrets from the environment only; here they come from files
# first, so that neither `docker inspect` nor a manifest shows them: NAME_FILE=/path gives NAME.
set -eu
umask 077

for name in MLFLOW_BACKEND_STORE_URI MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_ADMIN_PASSWORD; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then
        echo "mlflow-entrypoint: $name is not set; name a file with it as ${name}_FILE." >&2
        exit 2
    fi
done

# Logins live in the same database; the file is written anew at each start, and % is doubled
# because MLflow reads it with interpolation.
export MLFLOW_AUTH_CONFIG_PATH="${TMPDIR:-/tmp}/mlflow-auth.ini"
{
    echo "[mlflow]"
    echo "default_permission = READ"
    printf 'database_uri = %s\n' "$MLFLOW_BACKEND_STORE_URI" | sed 's/%/%%/g'
    echo "admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}"
    echo "authorization_function = mlflow.server.auth:authenticate_request_basic_auth"
    echo "grant_default_workspace_access = false"
} > "$MLFLOW_AUTH_CONFIG_PATH"

exec mlflow server --app-name basic-auth --serve-artifacts "$@"
