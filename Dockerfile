# A baked image: it holds one model and what serves it. docs/operations.md explains the build arguments.
#
#   docker build --build-arg CLIP_MODEL_NAME=clip-ViT-B-32 --build-arg TEXT_MODEL_NAME=clip-ViT-B-32 -t multi2vec-clip .

# cpu or cuda
ARG DEVICE=cpu
ARG OPEN_CLIP_MODEL_NAME
ARG COLPALI_ENGINE_MODEL_NAME
# names of files in requirements/
ARG FAMILIES="${OPEN_CLIP_MODEL_NAME:+openclip} ${COLPALI_ENGINE_MODEL_NAME:+colpali}"
# 1 puts in what traces need
ARG TRACING

FROM python:3.11-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /app

# Everything: bakes on any device, serves on a GPU.
FROM base AS install
ARG FAMILIES
ARG TRACING
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt deploy/docker/install.sh ./
COPY requirements requirements

FROM install AS bake-cpu
# PyTorch's own CPU builds: torch of the Python Package Index brings several GB of CUDA. Empty: your package index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/tmp/.cache/pip ./install.sh bake

FROM install AS bake-cuda
ARG TORCH_INDEX
RUN --mount=type=cache,target=/tmp/.cache/pip ./install.sh bake

# hadolint ignore=DL3006
FROM bake-${DEVICE} AS bake

FROM base AS serve
ARG TRACING
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt deploy/docker/install.sh ./
COPY requirements/serve.txt requirements/tracing.txt requirements/constraints.txt requirements/
RUN --mount=type=cache,target=/tmp/.cache/pip ./install.sh serve

FROM serve AS serve-cpu
FROM bake AS serve-cuda
# hadolint ignore=DL3006
FROM serve-${DEVICE} AS libraries

FROM base AS code
COPY LICENSE ./
COPY app app

FROM bake AS baked
WORKDIR /app
COPY --from=serve /opt/venv /opt/serve
COPY --from=code /app ./
COPY download.py deploy/docker/bake.sh ./
ARG DEVICE
ARG CLIP_MODEL_NAME
ARG TEXT_MODEL_NAME
ARG CLIP_MODEL_TYPE
ARG OPEN_CLIP_MODEL_NAME
ARG OPEN_CLIP_PRETRAINED
ARG SIGLIP_MODEL_NAME
ARG COLPALI_ENGINE_MODEL_NAME
ARG TRUST_REMOTE_CODE
ARG PRECISION
ARG HF_ENDPOINT
RUN --mount=type=secret,id=HF_TOKEN ./bake.sh

FROM base AS server
COPY --from=libraries /opt/venv /opt/venv
COPY --from=code /app ./
COPY deploy/docker/healthcheck.py /opt/
# Bytecode of all that a start imports, the standard library's too: at run time nobody may write it.
RUN python -m compileall -q app && python -c "import app.__main__, app.models.compile, http.client"
USER 10001:0
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-IS", "/opt/healthcheck.py"]
CMD ["python", "-m", "app"]

FROM server
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="multi2vec-clip" \
      org.opencontainers.image.description="CLIP inference for Weaviate's multi2vec-clip module" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=baked /out /
