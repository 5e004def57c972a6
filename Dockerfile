# Sluice as a container.
#
#   docker build -t sluice .                        CPU, bundled models baked in
#   docker build -t sluice:cuda --target cuda .     NVIDIA GPU: needs the NVIDIA container runtime on the host
#
#   docker run --rm sluice version
#   docker run --read-only --user 65532 -v $PWD/reviews.yaml:/etc/sluice/config.yaml:ro \
#     -v $PWD/my-model:/models/mine:ro sluice
#
# The image has no shell and no program but the worker. Its root file system may be read-only: the worker writes
# nothing. Models are baked into /opt/sluice/models; own models come by volume, wherever the configuration says.
# scripts/image-check.sh tests that root file system without an engine.

ARG GO_VERSION=1.26.11
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
    && cp /wheels/onnxruntime/capi/libonnxruntime_providers_*.so /lib-sluice/ \
    && cp /wheels/onnxruntime/LICENSE /wheels/onnxruntime/ThirdPartyNotices.txt /lib-sluice/ \
    && find /wheels/nvidia -name '*.so*' -exec cp {} /lib-sluice/ ';'

# --- the worker -----------------------------------------------------------------------------------------------------
FROM golang:${GO_VERSION}-${DEBIAN} AS worker
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY --from=tokenizers /libtokenizers /libtokenizers
COPY VERSION ./
COPY cmd cmd
COPY model model
COPY pipeline pipeline
COPY tokenize tokenize
RUN CGO_ENABLED=1 CGO_LDFLAGS=-L/libtokenizers \
    go build -trimpath -ldflags="-s -w -buildid= -X main.version=$(cat VERSION)" -o /out/sluice ./cmd/sluice

# --- the root file system: what the worker needs, and nothing else --------------------------------------------------
FROM debian:${DEBIAN}-slim AS root
# No version is pinned here: ca-certificates and libstdc++6 should be as new as the base image has them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker /out/sluice /root-image/opt/sluice/sluice
COPY --from=onnxruntime /lib-sluice /root-image/opt/sluice/lib
COPY scripts/image-root.sh /image-root.sh
RUN /image-root.sh /root-image
COPY models /root-image/opt/sluice/models
COPY examples /root-image/opt/sluice/examples

# --- CUDA: docker build --target cuda -------------------------------------------------------------------------------
# NVIDIA's container runtime puts the libraries of the host's driver into the image's library folders when a container
# starts, and has the loader's cache written anew; which folders those are it tells by the distribution that it finds.
# So this image keeps Debian's files, but neither a shell nor another interpreter.
FROM root AS cuda-root
RUN useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin sluice \
    && rm -rf /root-image /image-root.sh /usr/bin/perl* /bin/sh /bin/dash /bin/bash /bin/rbash

# Copied whole so that what was removed is in no layer.
FROM scratch AS cuda
# hadolint ignore=DL3067
COPY --from=cuda-root / /
COPY --from=worker /out/sluice /opt/sluice/sluice
COPY --from=onnxruntime-cuda /lib-sluice /opt/sluice/lib
COPY models /opt/sluice/models
COPY examples /opt/sluice/examples
WORKDIR /opt/sluice
ENV LD_LIBRARY_PATH=/opt/sluice/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute
USER 65532:65532
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["/opt/sluice/sluice", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/sluice/sluice"]
CMD ["run", "-c", "/etc/sluice/config.yaml"]

# --- CPU: the default -----------------------------------------------------------------------------------------------
FROM scratch AS cpu
COPY --from=root /root-image /
WORKDIR /opt/sluice
# The endpoints listen on loopback, as everywhere; `sluice health` asks them from within. To have them asked from
# outside, set SLUICE_SERVER__LISTEN=0.0.0.0:9464 with TLS and a token, or with SLUICE_SERVER__INSECURE=true
# (docs/security.md).
USER 65532:65532
EXPOSE 9464
# Ready only after warm-up and assignment; a worker that loads a large model takes a while.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["/opt/sluice/sluice", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/sluice/sluice"]
CMD ["run", "-c", "/etc/sluice/config.yaml"]
