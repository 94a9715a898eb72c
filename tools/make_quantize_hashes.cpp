// SPDX-License-Identifier: Apache-2.0
// Prints the table of src/quant/quantize_test.cpp: the SHA-256 of what ggml's reference
// quantization makes of the test rows. It is no part of the build. With LLAMA the folder of a built
// llama.cpp (x86-64, ggml-base compiled without -march flags, as its build does by default):
//
//   g++ -std=c++23 -O1 -I src -I $LLAMA/ggml/include tools/make_quantize_hashes.cpp \
//       src/core/mapped_file.cpp -L $LLAMA/build/bin -Wl,-rpath,$LLAMA/build/bin -lggml-base \
//       -lggml-cpu -lggml -lfmt -lcrypto -o /tmp/make_quantize_hashes && /tmp/make_quantize_hashes
#include <ggml.h>

#include <cstdio>
#include <span>
#include <vector>

#include "core/mapped_file.h"
#include "quant/quantize_test_rows.h"

int main() {
  const ggml_type types[] = {GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                             GGML_TYPE_Q4_1, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K};
  const char* names[] = {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"};
  for (size_t t = 0; t < std::size(types); ++t) {
    for (size_t kind = 0; kind < std::size(plumb::kRowKinds); ++kind) {
      const std::vector<float> row = plumb::test_row(kind);
      std::vector<std::byte> blocks(ggml_row_size(types[t], plumb::kRowCount));
      // The call of llama-quantize, without an importance matrix.
      ggml_quantize_chunk(types[t], row.data(), blocks.data(), 0, 1, plumb::kRowCount, nullptr);
      std::printf("    {DType::%s, \"%s\",\n     \"%s\"},\n", names[t], plumb::kRowKinds[kind],
                  plumb::sha256_hex(blocks).c_str());
    }
  }
}
