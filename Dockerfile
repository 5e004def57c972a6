# Sluice as a container.
#
#   docker build -t sluice .                        CPU, bundled models baked in
#   docker build -t sluice:cuda --target cuda .     NVIDIA GPU: needs the NVIDIA container runtime on the host
#
#   docker run --rm sluice version
#   docker run --read-only --user 65532 -v $PWD/reviews.yaml:/etc/sluice/config.yaml:ro -v $PWD/my-model:/models/mine:ro sluice
#
# The root file system may be read-only: the worker writes nothing. Models are baked into /opt/sluice/models; own models
# come by volume, wherever the configuration says.

ARG GO_VERSION=1.26
ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

# --- libtokenizers.a, from the Rust package registry ----------------------------------------------------------
FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS tokenizers
WORKDIR /src
COPY scripts/native.sh scripts/onnxruntime.lock scripts/
COPY tokenize/hf/native tokenize/hf/native
RUN scripts/native.sh tokenizers && mv build/tokenizers-* /libtokenizers && rm -rf build

# --- ONNX Runtime, from PyPI ----------------------------------------------------------------------------------------
FROM python:3.11-slim-${DEBIAN} AS onnxruntime
ARG TARGETARCH
WORKDIR /src
COPY scripts/native.sh scripts/onnxruntime.lock scripts/
RUN scripts/native.sh onnxruntime "${TARGETARCH:-amd64}" \
    && mkdir /lib-sluice \
    && cp build/onnxruntime/"${TARGETARCH:-amd64}"/* /lib-sluice/

# --- ONNX Runtime with its CUDA provider and the CUDA libraries that it loads, from PyPI ---------------------------
# Core and provider are of one wheel: they must never be mixed with the CPU library above.
FROM python:3.11-slim-${DEBIAN} AS onnxruntime-cuda
WORKDIR /src
COPY scripts/onnxruntime-cuda.txt .
RUN pip install --no-cache-dir --no-compile --only-binary :all: --target /wheels -r onnxruntime-cuda.txt \
    && mkdir /lib-sluice \
    && cp /wheels/onnxruntime/capi/libonnxruntime.so.1.* /lib-sluice/libonnxruntime.so.1 \
    && cp /wheels/onnxruntime/capi/libonnxruntime_providers_*.so /wheels/onnxruntime/LICENSE /wheels/onnxruntime/ThirdPartyNotices.txt /lib-sluice/ \
    && find /wheels/nvidia -name '*.so*' -exec cp {} /lib-sluice/ ';'

# --- the worker -----------------------------------------------------------------------------------------------------
FROM golang:${GO_VERSION}-${DEBIAN} AS worker
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY --from=tokenizers /libtokenizers /libtokenizers
COPY VERSION ./
COPY bench/audit bench/audit
COPY bench/bare bench/bare
COPY bench/load bench/load
COPY cmd cmd
COPY model model
COPY pipeline pipeline
COPY tokenize tokenize
COPY tune tune
RUN CGO_ENABLED=1 CGO_LDFLAGS=-L/libtokenizers \
    go build -trimpath -ldflags="-s -w -buildid= -X main.version=$(cat VERSION)" -o /out/sluice ./cmd/sluice

# --- what both images share -----------------------------------------------------------------------------------------
FROM debian:${DEBIAN}-slim AS base
# No version is pinned here: ca-certificates and libstdc++6 should be as new as the base image has them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin sluice
COPY --from=worker /out/sluice /opt/sluice/sluice
COPY models /opt/sluice/models
COPY examples /opt/sluice/examples
RUN ln -s /opt/sluice/sluice /usr/local/bin/sluice
WORKDIR /opt/sluice
# The endpoints listen on loopback, as everywhere; `sluice health` asks them from within. To have them asked from outside,
# set SLUICE_SERVER__LISTEN=0.0.0.0:9464 with TLS and a token, or with SLUICE_SERVER__INSECURE=true (docs/security.md).
USER 65532:65532
EXPOSE 9464
# Ready only after warm-up and assignment; a worker that loads a large model takes a while.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["sluice", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["run", "-c", "/etc/sluice/config.yaml"]

# --- CUDA: docker build --target cuda -------------------------------------------------------------------------------
FROM base AS cuda
COPY --from=onnxruntime-cuda /lib-sluice /opt/sluice/lib
ENV LD_LIBRARY_PATH=/opt/sluice/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute

# --- CPU: the default -----------------------------------------------------------------------------------------------
FROM base AS cpu
COPY --from=onnxruntime /lib-sluice /opt/sluice/lib
