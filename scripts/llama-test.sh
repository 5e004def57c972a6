#!/usr/bin/env bash
# Tests the client of LLM endpoints against a real llama.cpp server (llama-cpp-python) with a tiny random model, and
# writes what it saw to bench/results/llama-server.md. Everything it needs comes from PyPI; compiling takes some
# minutes, once.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=build/llama
venv=$dir/venv
lock=scripts/llama-requirements.txt
if ! cmp -s "$lock" "$dir/installed.txt"; then
  echo 'test-llama: compiling llama-cpp-python, which takes some minutes' >&2
  rm -rf "$venv" && mkdir -p "$dir"
  "${PYTHON:-python3}" -m venv "$venv"
  CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-2} CMAKE_ARGS='-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF' \
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$lock"
  cp "$lock" "$dir/installed.txt"
fi
"$venv/bin/python" scripts/make_llama_gguf.py "$dir/tiny.gguf"

port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$venv/bin/python" -m llama_cpp.server --model "$dir/tiny.gguf" --model_alias tiny --n_ctx 2048 --n_threads 1 \
  --interrupt_requests False --host 127.0.0.1 --port "$port" --verbose False >"$dir/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
if ! curl --silent --fail --retry 60 --retry-connrefused --retry-delay 1 --output /dev/null \
  "http://127.0.0.1:$port/v1/models"; then
  echo "test-llama: the server did not start; its log, $dir/server.log, ends with:" >&2
  tail -5 "$dir/server.log" >&2
  exit 1
fi

out=$dir/test.txt
status=0
SLUICE_LLAMA_URL="http://127.0.0.1:$port/v1" CGO_ENABLED=0 go test -tags llama -count=1 -run '^TestLlama$' -v \
  ./pipeline/llm >"$out" 2>&1 || status=$?
cat "$out"
[ "$status" -eq 0 ] || exit "$status"
{
  echo '# The client of LLM endpoints against a real llama.cpp server'
  echo
  echo 'Written by `make test-llama`: the server of llama-cpp-python with a tiny model of random weights'
  echo '(scripts/make_llama_gguf.py), asked through the same pool as in a worker. What is checked is the protocol:'
  echo 'which forms of structured output the server takes, that its grammar makes answers that the strict reader takes,'
  echo 'usage numbers, and what its errors are taken for. The labels mean nothing.'
  echo
  grep -iE '^(llama_cpp_python|gguf|uvicorn|fastapi)==' "$lock" | sed 's/^/- /'
  echo
  echo '```'
  sed -E -e "s/:$port/:PORT/g; s/ \([0-9.]+s\)//; s/\t[0-9.]+s$//" \
    -e "s/\"latency_seconds\":[0-9.]+/\"latency_seconds\":…/" \
    "$out" | sed 's/ *$//'
  echo '```'
} >bench/results/llama-server.md
