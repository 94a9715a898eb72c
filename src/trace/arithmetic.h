// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace plumb {

// How a step was computed, in the words of the trace format: what its numbers were rounded to.
struct Arithmetic {
  std::string weights = "f32";  // storage type of the weights
  std::string activations =
      "f32";  // what the inputs were rounded to: f32 f16 bf16 int8/32 int8/256 …
  std::string accumulate = "f32";  // f64 f32 f16 int32
  std::string output = "f32";      // what the result was rounded to
  // What queries are rounded to before they meet the keys, and softmax weights before the values:
  // f32 f16 bf16 …; f16/flash: queries alone, and the mix is summed up in half precision.
  std::string attention = "f32";
  // f16, bf16: the weights are made that type first, and each elementary operation inside a step
  // rounds to it, as torch does in that type.
  std::string inside = "f32";
  // f16/table: GELU or SiLU of an argument in half precision, result in half precision (ggml's
  // tables). fast: exp, tanh and quotients of a GPU's fast arithmetic.
  std::string functions = "f32";
  friend bool operator==(const Arithmetic&, const Arithmetic&) = default;
};

// Whether values of this kind are scaled by the largest of a tensor, a row or 128: "int8/row".
inline bool is_scaled(std::string_view kind) {
  return kind.ends_with("/tensor") || kind.ends_with("/row") || kind.ends_with("/128");
}

// Patterns in order of the file; the last one that fits a name holds, so that '*' may stand first.
using ArithmeticTable = std::vector<std::pair<std::string, Arithmetic>>;

// Whether `name` fits `pattern`, in which '*' stands for any text, also for none.
bool fits(std::string_view pattern, std::string_view name);

}  // namespace plumb
