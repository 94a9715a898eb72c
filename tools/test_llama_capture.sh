#!/bin/sh
# Builds the capture for llama.cpp against a llama.cpp, records a model in each setting of attention and cache, and lets plumb judge:
# every step must be right in an arithmetic that has a name, and the observer may change no bit.
#
#     test_llama_capture.sh LLAMA_CPP PLUMB MODEL.gguf
set -eu
llama=$1 plumb=$2 model=$3
[ -d "$llama/build/bin" ] || { echo "no llama.cpp with build/bin at '$llama': make test-peers LLAMA=path/to/llama.cpp"; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
${CXX:-g++} -std=c++17 -O2 capture/llama_capture.cpp -o "$place/llama_capture" -I"$llama/include" -I"$llama/ggml/include" \
  -L"$llama/build/bin" -Wl,-rpath,"$llama/build/bin" -lllama -lggml -lggml-base
tokens=$("$plumb" tokenize "$model" --ids "The young owl sat in a tree and looked at the moon for a long time")
passed=0 failed=0
for setting in "on f16" "off f16" "off f32" "on f32"; do
  flash=${setting% *} kv=${setting#* }
  "$place/llama_capture" -m "$model" --tokens "$tokens" -n 8 --flash-attn "$flash" --kv "$kv" --check -o "$place/run.safetensors" > "$place/log" 2>&1 || { cat "$place/log"; exit 1; }
  verdict=$("$plumb" audit "$place/run.safetensors" --model "$model" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["verdict"])') || true
  case $verdict in SAME | EXPLAINED) passed=$((passed + 1)) ;; *) failed=$((failed + 1)) ;; esac
  echo "flash attention $flash, cache $kv: $verdict"
done
echo "llama.cpp: $passed passed, $failed failed"
[ "$failed" = 0 ]
