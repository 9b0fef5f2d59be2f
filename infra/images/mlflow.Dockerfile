# MLflow's server with its logins, over Postgres and an S3 store.
#
#   docker build -f infra/images/mlflow.Dockerfile -t visage-mlflow:0.1.0 .
#
# To pin the bytes of the base too, see curate.Dockerfile.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/mlflow
ENV PATH=/opt/mlflow/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
RUN pip install --constraint constraints.txt \
    "mlflow[auth]" boto3 prometheus_flask_exporter psycopg2-binary

FROM ${BASE_IMAGE}
ARG MLFLOW_VERSION=3.17.2
ARG VISAGE_VERSION=0.1.0
LABEL org.opencontainers.image.title="visage-mlflow" \
      org.opencontainers.image.version="${VISAGE_VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.mlflow.version="${MLFLOW_VERSION}"
COPY --from=build /opt/mlflow /opt/mlflow
COPY --chmod=0555 infra/images/mlflow-entrypoint.sh /usr/local/bin/mlflow-entrypoint
# The server never unpickles: what we log is safetensors.
ENV PATH=/opt/mlflow/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
RUN python -c "import mlflow, sys; sys.exit(mlflow.__version__ != '${MLFLOW_VERSION}')"
USER 10001:10001
WORKDIR /tmp
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=3)"]
ENTRYPOINT ["mlflow-entrypoint"]
