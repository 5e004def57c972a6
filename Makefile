# Sluice. `make help` lists the targets.

SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help native build

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

native: ## build libtokenizers.a and fetch ONNX Runtime, under build/
	@scripts/native.sh env >/dev/null

build: native ## dist/sluice, and the library that it loads from dist/lib
	@mkdir -p dist/lib
	@eval "$$(scripts/native.sh env)" && \
		install -m 644 "$$(dirname "$$SLUICE_ONNXRUNTIME")"/* dist/lib/ && \
		go build -trimpath -ldflags='-s -w -buildid=' -o dist/sluice ./cmd/sluice
