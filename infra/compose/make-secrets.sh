#!/bin/sh
# Write the secrets that compose.yaml mounts, once; those that are there stay as they are.
#
# The folder is open to you alone. The files in it are readable, since inside a container another
# user than you reads them, and compose mounts them with the mode they have.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
once() {
    if [ ! -e "secrets/$1" ]; then
        cat > "secrets/$1.new"
        chmod 644 "secrets/$1.new"
        mv "secrets/$1.new" "secrets/$1"
        echo "secrets/$1: written"
    else
        cat > /dev/null
        echo "secrets/$1: kept"
    fi
}

random | once postgres_password
# The driver is named: SQLAlchemy alone would look for another one than the image has.
printf 'postgresql+psycopg2://mlflow:%s@postgres:5432/mlflow' "$(cat secrets/postgres_password)" |
    once mlflow_backend_store_uri
random | once mlflow_flask_secret_key
random | once mlflow_admin_password
printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' \
    "$(cat secrets/mlflow_admin_password)" | once mlflow_credentials
random | once grafana_admin_password
random | once ray_token
printf '[default]\naws_access_key_id = visage\naws_secret_access_key = %s\n' "$(random)" |
    once s3_credentials
key=$(sed -n 's/^aws_secret_access_key = //p' secrets/s3_credentials)
printf '{"identities": [{"name": "visage", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "visage", "secretKey": "%s"}]}]}\n' "$key" | once s3_identities.json
