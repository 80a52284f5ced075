# No model inside: name one at the start, or bake it in a second Dockerfile. docs/operations.md explains the build
# arguments.
#
#   docker build -f custom.Dockerfile -t multi2vec-clip:custom .
#
#   docker run -v clip:/app/models -e CLIP_MODEL_NAME=clip-ViT-B-32 -e TEXT_MODEL_NAME=clip-ViT-B-32 multi2vec-clip:custom
#
# or
#
#   FROM multi2vec-clip:custom
#   RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
#
# or
#
#   FROM multi2vec-clip:custom
#   COPY ./my-text-model /app/models/text
#   COPY ./my-clip-model /app/models/clip

# cpu or cuda
ARG DEVICE=cpu

FROM python:3.11-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /app

FROM base AS install
# Of every family that needs a library of its own; empty leaves them out (and torchvision).
ARG FAMILIES="openclip colpali"
# 1 puts in what traces need
ARG TRACING
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt deploy/docker/install.sh ./
COPY requirements requirements

FROM install AS install-cpu
# PyTorch's own CPU builds: torch of the Python Package Index brings several GB of CUDA. Empty: your package index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/tmp/.cache/pip ./install.sh bake-without-cuda

FROM install AS install-cuda
ARG TORCH_INDEX
RUN --mount=type=cache,target=/tmp/.cache/pip ./install.sh bake

# hadolint ignore=DL3006
FROM install-${DEVICE} AS libraries

FROM base AS code
COPY LICENSE download.py requirements.txt ./
COPY requirements requirements
COPY app app
# The names that these files had before, for Dockerfiles that install one of them on top of this image.
RUN install -d -o 10001 -g 0 -m 775 models \
    && for family in openclip colpali; do echo "-r requirements/$family.txt" >"requirements-$family.txt"; done

FROM base
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="multi2vec-clip" \
      org.opencontainers.image.description="CLIP inference for Weaviate's multi2vec-clip module, without a model" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# In which models are baked and served; empty: float32, or as PRECISION says then.
ARG PRECISION
# `pip install` in an image made from this one reaches the interpreter that serves.
ENV PIP_PYTHON=/opt/venv/bin/python \
    PRECISION=$PRECISION
COPY --from=libraries /opt/venv /opt/venv
COPY --from=code /app ./
COPY deploy/docker/healthcheck.py /opt/
# Bytecode of all that a start imports, the standard library's too: at run time nobody may write it.
RUN python -m compileall -q app && python -c "import app.__main__, app.models.compile, http.client"
EXPOSE 8080
# The first start may download and compile a model.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30m --retries=3 \
    CMD ["python", "-IS", "/opt/healthcheck.py"]
USER 10001:0
CMD ["python", "-m", "app"]
