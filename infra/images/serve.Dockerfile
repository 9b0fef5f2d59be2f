# Serving: Ray Serve, the generator, the face backends.
#
#   docker build -f infra/images/serve.Dockerfile -t visage-serve:0.1.0 .
#
# The base is pinned by tag. To pin its bytes too, take the digest once and give it:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm
#   --build-arg BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:...
# TORCH_INDEX chooses another build of the same pinned torch, CUDA's for example; its wheels bring
# CUDA along, so no other base is needed: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX=""
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008  # Debian keeps only the newest of each package; a pin would break the build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/visage
ENV PATH=/opt/visage/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# The heavy and rarely changing part is a layer of its own.
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch "ray[serve]"
COPY pyproject.toml README.md LICENSE ./
COPY infra infra
COPY stages stages
COPY training training
COPY serving serving
COPY pipelines pipelines
RUN pip install --constraint constraints.txt ".[data,train,track,serve]"

FROM ${BASE_IMAGE}
ARG RAY_VERSION=2.60.0
ARG VISAGE_VERSION=0.1.0
LABEL org.opencontainers.image.title="visage-serve" \
      org.opencontainers.image.version="${VISAGE_VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      io.ray.version="${RAY_VERSION}"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# OpenCV needs libGL and GLib; KubeRay's probes call wget; torch.compile calls gcc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 wget \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 /tmp/ray
COPY --from=build /opt/visage /opt/visage
# Nothing is written outside /tmp, so the root file system can be read-only.
ENV PATH=/opt/visage/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# All nodes of a cluster need one Ray: a wrong one fails here, not there.
RUN python -c "import ray, sys; sys.exit(ray.__version__ != '${RAY_VERSION}')"
USER 10001:10001
WORKDIR /tmp
# Of Ray's proxy: a node may be well while nothing on it answers.
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=4 \
    CMD ["sh", "-c", "wget --tries=1 --timeout=3 -q -O- http://127.0.0.1:8000/-/healthz | grep -q success"]
EXPOSE 8000
CMD ["visage", "--help"]
