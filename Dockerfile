# Two images from one file: `--target api` has no torch, `--target worker` has everything.
# The base may be pinned by digest: docker build --build-arg BASE=python:3.12-slim@sha256:… .
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/modelpress PATH=/opt/modelpress/bin:$PATH
RUN python -m venv $VIRTUAL_ENV && useradd --system --uid 10001 --home-dir /var/lib/modelpress --create-home modelpress
WORKDIR /opt/src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY core core
COPY engine engine
COPY modelpress modelpress
COPY migrations migrations
COPY cli cli

FROM base AS api
COPY api api
COPY worker/__init__.py worker/__init__.py
RUN pip install --constraint constraints.txt '.[api]'
USER modelpress
WORKDIR /var/lib/modelpress
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["python", "-m", "api.server", "--host", "0.0.0.0", "--port", "8000", "--proxy-headers"]

FROM base AS worker
# An index with CPU builds of torch keeps the image small on hosts without an accelerator.
ARG TORCH_INDEX_URL=
COPY worker worker
RUN pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL} '.[worker]'
USER modelpress
WORKDIR /var/lib/modelpress
CMD ["modelpress", "worker", "--queue", "cpu"]
