// SPDX-License-Identifier: Apache-2.0
#include "model/plan.h"

#include <algorithm>

namespace plumb {

std::optional<size_t> Plan::find(const std::string& name) const {
  for (size_t i = 0; i < steps.size(); ++i)
    if (steps[i].name == name) return i;
  return std::nullopt;
}

bool is_on_request(Op op) { return op == Op::Scores || op == Op::Softmax; }

bool is_causal(const Plan& plan) {
  return std::ranges::all_of(plan.steps, [](const Step& step) { return step.attention.causal; });
}

const char* to_text(Op op) {
  switch (op) {
    case Op::Embedding: return "embedding lookup";
    case Op::RmsNorm: return "RMS norm";
    case Op::MatMul: return "matrix product";
    case Op::Bias: return "bias";
    case Op::Rope: return "rotation";
    case Op::Scores: return "attention scores";
    case Op::Softmax: return "softmax";
    case Op::Mix: return "attention mix";
    case Op::Add: return "residual sum";
    case Op::Silu: return "SiLU";
    case Op::Multiply: return "product";
  }
  return "";
}

}  // namespace plumb
