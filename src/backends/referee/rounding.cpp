// SPDX-License-Identifier: Apache-2.0
#include "backends/referee/rounding.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/half.h"

namespace plumb::referee {
namespace {

size_t block_of(const std::string& kind, size_t row) {
  if (kind == "int8/32" || keeps_block_sums(kind)) return 32;
  if (kind == "int8/256") return 256;
  return row;
}

float largest(std::span<const double> block) {
  float largest = 0;
  for (const double x : block) {
    const float magnitude = std::fabs(static_cast<float>(x));
    if (!(magnitude <= largest)) largest = magnitude;  // a NaN stays
  }
  return largest;
}

void round_block_even(std::span<double> block) {
  const float max = largest(block);
  if (max < 0x1p-119F) {  // 127 / max would overflow: a block of such values is zero
    std::ranges::fill(block, 0.0);
    return;
  }
  const float scale = max / 127.0F;
  const float inverse = 127.0F / max;
  for (double& x : block) {
    const float steps = std::nearbyint(static_cast<float>(x) * inverse);
    x = static_cast<double>(scale) * static_cast<double>(steps);
  }
}

void round_block_q8_0(std::span<double> block, bool even) {
  const float max = largest(block);
  if (max == 0) return;
  const float scale = max / 127.0F;
  const float inverse = even ? 127.0F / max : 1.0F / scale;
  const auto stored = static_cast<double>(f16_to_f32(f32_to_f16(scale)));
  for (double& x : block) {
    const float steps = static_cast<float>(x) * inverse;
    x = stored * static_cast<double>(even ? std::nearbyint(steps) : std::round(steps));
  }
}

void round_block_q8_k(std::span<double> block) {
  float signed_max = 0;
  for (const double x : block)
    if (std::fabs(static_cast<float>(x)) > std::fabs(signed_max))
      signed_max = static_cast<float>(x);
  if (signed_max == 0) return;
  const float inverse = -127.0F / signed_max;
  const auto scale = static_cast<double>(1.0F / inverse);
  for (double& x : block)
    x = scale *
        std::min(127.0, static_cast<double>(std::nearbyint(static_cast<float>(x) * inverse)));
}

}  // namespace

double round_to_f32(double x) { return static_cast<double>(static_cast<float>(x)); }
double round_to_f16(double x) {
  return static_cast<double>(f16_to_f32(f32_to_f16(static_cast<float>(x))));
}
double round_to_bf16(double x) {
  return static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(x))));
}

bool is_known_rounding(const std::string& kind) {
  for (const char* known : {"f64", "f32", "f16", "bf16", "int8/32", "int8/32/f16scale",
                            "int8/32/f16scale/even", "int8/256", "int8/row"})
    if (kind == known) return true;
  return false;
}

void round_row(const std::string& kind, std::span<double> row) {
  if (kind == "f64" || kind == "f32") return;  // inputs were recorded as they are
  if (kind == "f16") std::ranges::transform(row, row.begin(), round_to_f16);
  else if (kind == "bf16") std::ranges::transform(row, row.begin(), round_to_bf16);
  else {
    CHECK(is_known_rounding(kind));
    const size_t block = block_of(kind, row.size());
    for (size_t begin = 0; begin < row.size(); begin += block) {
      const auto part = row.subspan(begin, std::min(block, row.size() - begin));
      if (keeps_block_sums(kind)) round_block_q8_0(part, kind.ends_with("even"));
      else if (kind == "int8/256") round_block_q8_k(part);
      else round_block_even(part);
    }
  }
}

constexpr std::string_view kTurn = "/hadamard";
bool turns_first(const std::string& kind) { return kind.ends_with(kTurn); }
std::string without_turn(const std::string& kind) {
  return turns_first(kind) ? kind.substr(0, kind.size() - kTurn.size()) : kind;
}

void turn_hadamard(std::span<double> row, size_t n) {
  const double scale = 1 / std::sqrt(static_cast<double>(n));
  for (size_t begin = 0; begin + n <= row.size(); begin += n) {
    const auto part = row.subspan(begin, n);
    for (size_t half = 1; half < n; half *= 2)
      for (size_t i = 0; i < n; ++i) {
        if ((i & half) != 0) continue;
        const double a = part[i];
        const double b = part[i + half];
        part[i] = a + b;
        part[i + half] = a - b;
      }
    for (double& x : part) x *= scale;
  }
}

bool keeps_block_sums(const std::string& kind) { return kind.starts_with("int8/32/f16scale"); }

double block_sum_excess(const std::string& kind, std::span<const double> block) {
  const float max = largest(block);
  if (!(max > 0)) return 0;
  const float scale = max / 127.0F;
  const double stored = round_to_f16(static_cast<double>(scale));
  std::vector<double> rounded(block.begin(), block.end());
  round_block_q8_0(rounded, kind.ends_with("even"));
  double steps = 0;
  if (stored > 0)
    for (const double x : rounded) steps += std::nearbyint(x / stored);
  return round_to_f16(round_to_f32(static_cast<double>(scale) * steps)) - stored * steps;
}

void rounding_deviation(const std::string& kind, std::span<const double> row,
                        std::span<double> deviation) {
  const double uniform = 1 / std::sqrt(12.0);
  if (kind == "f64" || kind == "f32") {
    std::ranges::fill(deviation, 0.0);
  } else if (kind == "f16" || kind == "bf16") {
    const double step = kind == "f16" ? 0x1p-10 : 0x1p-7;
    for (size_t i = 0; i < row.size(); ++i)
      deviation[i] = std::max(std::fabs(row[i]) * step, kind == "f16" ? 0x1p-24 : 0.0) * uniform;
  } else {
    const size_t block = block_of(kind, row.size());
    for (size_t begin = 0; begin < row.size(); begin += block) {
      const size_t size = std::min(block, row.size() - begin);
      const double step = static_cast<double>(largest(row.subspan(begin, size))) / 127;
      for (size_t i = begin; i < begin + size; ++i) deviation[i] = step * uniform;
    }
  }
}

}  // namespace plumb::referee
