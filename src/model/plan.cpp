// SPDX-License-Identifier: Apache-2.0
#include "model/plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace plumb {

std::optional<size_t> Plan::find(const std::string& name) const {
  for (size_t i = 0; i < steps.size(); ++i)
    if (steps[i].name == name) return i;
  return std::nullopt;
}

bool is_on_request(Op op) { return op == Op::Scores || op == Op::Softmax; }

bool can_split(const Plan& plan) {
  return std::ranges::none_of(plan.steps,
                              [](const Step& step) { return step.attention.quirk != nullptr; });
}

bool is_plain(const Step& step) {
  const auto& rope = step.rope;
  const auto& experts = step.experts;
  switch (step.op) {
    case Op::Embedding: return step.token_shift == 0;
    case Op::Add: return step.factor == 1;
    case Op::RmsNorm:
    case Op::LayerNorm: return !step.epsilon_outside;
    case Op::Rope:
      return rope.pairing != RopePairing::NeighboursOfHalves && rope.shift_from == 0 &&
             rope.first_channel == 0 && rope.first_heads == 0;
    case Op::Scores:
    case Op::Softmax:
    case Op::Mix: return step.attention.quirk == nullptr;
    case Op::Relu:
    case Op::QuickGelu: return false;
    case Op::TopExperts: return experts.shift == 0;
    case Op::ExpertWeights: return experts.dropped == 0 && !experts.uniform && !experts.sigmoid;
    default: return true;
  }
}

double alibi_slope(const Attention& attention, size_t head) {
  const auto power = static_cast<double>(std::bit_floor(attention.heads));
  const auto h = static_cast<double>(head);
  if (h < power) return std::exp2(-attention.alibi_max_bias * (h + 1) / power);
  return std::exp2(-attention.alibi_max_bias / 2 * (2 * (h - power) + 1) / power);
}

namespace {

// The pair that turns `rotations` times in the original context.
double yarn_pair(const Rope& rope, const Yarn& yarn, double rotations) {
  const auto n = static_cast<double>(rope.dimensions);
  return n * std::log(yarn.original_context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.base));
}

// The share of the interpolated frequency of each pair.
std::vector<double> yarn_ramp(const Rope& rope, const Yarn& yarn) {
  double low = yarn_pair(rope, yarn, yarn.beta_fast);
  double high = yarn_pair(rope, yarn, yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.dimensions) - 1);
  if (low == high) high += 0.001;  // as both llama.cpp and transformers avoid the division by zero
  std::vector<double> ramp(rope.dimensions / 2);
  for (size_t p = 0; p < ramp.size(); ++p)
    ramp[p] = std::clamp((static_cast<double>(p) - low) / (high - low), 0.0, 1.0);
  return ramp;
}

}  // namespace

std::pair<size_t, size_t> rope_pair(const Rope& rope, size_t pair) {
  const size_t half = rope.dimensions / 2;
  // Where value i of halves went.
  const auto moved = [half](size_t i) { return i < half ? 2 * i : 2 * (i - half) + 1; };
  const size_t first = rope.first_channel;
  switch (rope.pairing) {
    case RopePairing::Neighbours: return {first + 2 * pair, first + 2 * pair + 1};
    case RopePairing::Halves: return {first + pair, first + pair + half};
    default: return {moved(2 * pair), moved(2 * pair + 1)};
  }
}

std::vector<double> rope_frequencies(const Rope& rope) {
  std::vector<double> frequencies(rope.dimensions / 2);
  const auto factors = rope.factors ? rope.factors->values() : std::vector<float>();
  const auto ramp = rope.yarn ? yarn_ramp(rope, *rope.yarn) : std::vector<double>();
  const auto divisor = static_cast<double>(
      rope.frequency_dimensions != 0 ? rope.frequency_dimensions : rope.dimensions);
  for (size_t p = 0; p < frequencies.size(); ++p) {
    double& f = frequencies[p];
    f = rope.direction * std::pow(rope.base, -2.0 * static_cast<double>(p) / divisor) /
        rope.linear_factor;
    if (!factors.empty() && rope.factors_multiply) f *= static_cast<double>(factors[p]);
    else if (!factors.empty()) f /= static_cast<double>(factors[p]);
    if (rope.yarn) f *= ramp[p] / rope.yarn->factor + 1 - ramp[p];
  }
  return frequencies;
}

const char* to_text(Op op) {
  switch (op) {
    case Op::Embedding: return "embedding lookup";
    case Op::Positions: return "learned positions";
    case Op::RmsNorm: return "RMS norm";
    case Op::LayerNorm: return "layer norm";
    case Op::MatMul: return "matrix product";
    case Op::Bias: return "bias";
    case Op::Rope: return "rotation";
    case Op::Scores: return "attention scores";
    case Op::Softmax: return "softmax";
    case Op::Mix: return "attention mix";
    case Op::Add: return "residual sum";
    case Op::Multiply: return "product";
    case Op::MultiplyRow: return "product with one number";
    case Op::Scale: return "scale";
    case Op::SoftCap: return "soft cap";
    case Op::Silu: return "SiLU";
    case Op::GeluTanh: return "GELU (tanh)";
    case Op::GeluErf: return "GELU (erf)";
    case Op::Sigmoid: return "sigmoid";
    case Op::Relu: return "ReLU";
    case Op::QuickGelu: return "quick GELU";
    case Op::TopExperts: return "choice of experts";
    case Op::ExpertWeights: return "weights of experts";
    case Op::ExpertMatMul: return "experts' matrix product";
    case Op::ExpertSum: return "sum of experts";
  }
  return "";
}

}  // namespace plumb
