# blindharmony with its weights, for machines without Python. Nothing is downloaded when it runs.
#
#   docker build -t blindharmony .                                   CPU
#   docker build -t blindharmony:cuda \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 --build-arg TORCH=torch==2.13.0 .
#
#   docker run --rm --read-only --tmpfs /tmp --network none -u "$(id -u):$(id -g)" \
#     -v /data/scans:/in:ro -v /data/results:/out blindharmony harmonize /in --out /out
FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="blindharmony" \
  org.opencontainers.image.description="Blind harmonization of MR images" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="0.2.0.dev0" \
  org.opencontainers.image.source=""

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Torch first: this layer is large and changes seldom. Its version is pinned by the argument.
# hadolint ignore=DL3013
RUN pip install --index-url "$TORCH_INDEX" "$TORCH"

# Then everything else, file by file as it is locked, and the package on top of it.
COPY pyproject.toml constraints.txt requirements.lock README.md LICENSE NOTICE /src/
RUN pip install --require-hashes --no-deps -r /src/requirements.lock
COPY src /src/src
RUN pip install --no-deps /src && rm -rf /src

# No home, no root, nothing written but the output: no byte code.
# With -e BLINDHARMONY_CONTAINER="docker NAME:TAG" results name the image by the name it has where you are.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/nonexistent BLINDHARMONY_CONTAINER=docker
USER 65534:65534
WORKDIR /out
ENTRYPOINT ["blindharmony"]
CMD ["--help"]
