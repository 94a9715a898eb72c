// SPDX-License-Identifier: Apache-2.0
#include "backends/referee/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/half.h"
#include "trace/arithmetic.h"

namespace plumb::referee {
namespace {

constexpr float kLargestE4m3 = 448;
constexpr float kLargestE5m2 = 57344;

size_t block_of(const std::string& kind, size_t row) {
  if (kind == "int8/32" || kind == "q4_0" || keeps_block_sums(kind)) return 32;
  if (kind.ends_with("/128")) return 128;
  if (kind == "int8/256") return 256;
  return row;
}

bool is_fp8(const std::string& kind) { return kind.starts_with("fp8"); }
bool is_e5m2(const std::string& kind) { return kind.starts_with("fp8e5m2"); }
float largest_fp8(const std::string& kind) { return is_e5m2(kind) ? kLargestE5m2 : kLargestE4m3; }

void round_block_even(std::span<double> block, float max) {
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
  const float max = largest_magnitude(block);
  if (max == 0) return;
  const float scale = max / 127.0F;
  const float inverse = even ? 127.0F / max : 1.0F / scale;
  const auto stored = static_cast<double>(f16_to_f32(f32_to_f16(scale)));
  for (double& x : block) {
    const float steps = static_cast<float>(x) * inverse;
    x = stored * static_cast<double>(even ? std::nearbyint(steps) : std::round(steps));
  }
}

void round_block_q4_0(std::span<double> block) {
  float signed_max = 0;
  for (const double x : block)
    if (std::fabs(static_cast<float>(x)) > std::fabs(signed_max))
      signed_max = static_cast<float>(x);
  if (signed_max == 0) return;
  const float scale = signed_max / -8.0F;
  const float inverse = 1.0F / scale;
  const double stored = round_to_f16(static_cast<double>(scale));
  for (double& x : block) {
    const float steps = std::floor(static_cast<float>(x) * inverse + 8.5F);
    x = stored * (static_cast<double>(std::min(15.0F, steps)) - 8);
  }
}

void round_block_fp8(const std::string& kind, std::span<double> block, float max) {
  const float scale = is_scaled(kind) ? max / largest_fp8(kind) : 1.0F;
  if (scale == 0) return;
  for (double& x : block) {
    const auto steps = static_cast<double>(static_cast<float>(x) / scale);
    x = static_cast<double>(scale) * (is_e5m2(kind) ? round_to_e5m2(steps) : round_to_e4m3(steps));
  }
}

// To a float of `bits` explicit bits whose smallest normal number is 2^least.
double round_to_small_float(double x, int bits, int least, float largest) {
  if (!std::isfinite(x) || x == 0) return x;
  const int exponent = std::max(std::ilogb(x), least);
  const double step = std::ldexp(1.0, exponent - bits);
  const auto limit = static_cast<double>(largest);
  return std::clamp(std::nearbyint(x / step) * step, -limit, limit);
}

// The bits behind the tenth are cut off a float, once `add` was added to them.
double float_of_ten_bits(double x, uint32_t add) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  const bool finite = (bits & 0x7F800000U) != 0x7F800000U;
  return finite ? static_cast<double>(std::bit_cast<float>((bits + add) & ~0x1FFFU)) : x;
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

double round_to_e4m3(double x) { return round_to_small_float(x, 3, -6, kLargestE4m3); }
double round_to_e5m2(double x) { return round_to_small_float(x, 2, -14, kLargestE5m2); }
double round_to_f32(double x) { return static_cast<double>(static_cast<float>(x)); }
double round_to_f16(double x) {
  return static_cast<double>(f16_to_f32(f32_to_f16(static_cast<float>(x))));
}
double round_to_bf16(double x) {
  return static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(x))));
}

double round_to_tf32(double x) { return float_of_ten_bits(x, 0x1000U); }
double cut_to_tf32(double x) { return float_of_ten_bits(x, 0); }

double (*short_float(const std::string& kind))(double) {
  if (kind == "f16") return round_to_f16;
  if (kind == "bf16") return round_to_bf16;
  if (kind == "tf32") return round_to_tf32;
  return kind == "tf32/cut" ? cut_to_tf32 : nullptr;
}

float largest_magnitude(std::span<const double> values) {
  float largest = 0;
  for (const double x : values) {
    const float magnitude = std::fabs(static_cast<float>(x));
    if (!(magnitude <= largest)) largest = magnitude;  // a NaN stays
  }
  return largest;
}

bool is_per_tensor(const std::string& kind) { return kind.ends_with("/tensor"); }

bool is_known_rounding(const std::string& kind) {
  for (const char* known : {"f64",
                            "f32",
                            "f16",
                            "bf16",
                            "tf32",
                            "tf32/cut",
                            "int8/32",
                            "int8/32/f16scale",
                            "int8/32/f16scale/even",
                            "int8/128",
                            "int8/256",
                            "int8/row",
                            "int8/tensor",
                            "q4_0",
                            "fp8e4m3",
                            "fp8e4m3/128",
                            "fp8e4m3/row",
                            "fp8e4m3/tensor",
                            "fp8e5m2",
                            "fp8e5m2/128",
                            "fp8e5m2/row",
                            "fp8e5m2/tensor"})
    if (kind == known) return true;
  return false;
}

void round_row(const std::string& kind, std::span<double> row, std::optional<float> largest) {
  if (kind == "f64" || kind == "f32") return;  // inputs were recorded as they are
  if (const auto round = short_float(kind)) std::ranges::transform(row, row.begin(), round);
  else {
    CHECK(is_known_rounding(kind));
    const size_t block = block_of(kind, row.size());
    for (size_t begin = 0; begin < row.size(); begin += block) {
      const auto part = row.subspan(begin, std::min(block, row.size() - begin));
      const float max = largest && is_per_tensor(kind) ? *largest : largest_magnitude(part);
      if (keeps_block_sums(kind)) round_block_q8_0(part, kind.ends_with("even"));
      else if (kind == "int8/256") round_block_q8_k(part);
      else if (kind == "q4_0") round_block_q4_0(part);
      else if (is_fp8(kind)) round_block_fp8(kind, part, max);
      else round_block_even(part, max);
    }
  }
}

std::vector<Undecided> undecided_values(const std::string& kind, std::span<const double> row,
                                        std::optional<float> largest) {
  constexpr double kError = 4 * 0x1p-24;  // at most three operations, each half a unit; and a spare
  std::vector<Undecided> list;
  if (!is_scaled(kind)) return list;
  const double top = is_fp8(kind) ? static_cast<double>(largest_fp8(kind)) : 127;
  const auto round = [&](double steps) {
    if (!is_fp8(kind)) return std::nearbyint(steps);
    return is_e5m2(kind) ? round_to_e5m2(steps) : round_to_e4m3(steps);
  };
  const size_t block = block_of(kind, row.size());
  for (size_t begin = 0; begin < row.size(); begin += block) {
    const auto part = row.subspan(begin, std::min(block, row.size() - begin));
    const float max = largest && is_per_tensor(kind) ? *largest : largest_magnitude(part);
    const double scale = static_cast<double>(max) / top;
    if (!(scale > 0)) continue;
    for (size_t i = 0; i < part.size(); ++i) {
      const double steps = part[i] / scale;
      const double error = kError * std::fabs(steps);
      const double apart = round(steps + error) - round(steps - error);
      if (apart > 0) list.push_back({0, begin + i, scale * apart});
    }
  }
  return list;
}

std::vector<Undecided> round_weight(const std::string& kind, size_t rows, std::span<float> values) {
  std::vector<Undecided> undecided;
  if (rows == 0 || values.empty()) return undecided;
  constexpr size_t kTile = 128;
  const size_t width = values.size() / rows;
  const bool tiles = kind.ends_with("/128");
  const size_t high = tiles ? kTile : is_per_tensor(kind) ? rows : 1;
  const size_t wide = tiles ? kTile : width;
  // Each part is rounded by the largest value of the block that it is in.
  const auto as = is_scaled(kind) ? kind.substr(0, kind.find('/')) + "/tensor" : kind;
  std::vector<double> part;
  for (size_t top = 0; top < rows; top += high)
    for (size_t left = 0; left < width; left += wide) {
      const size_t bottom = std::min(rows, top + high);
      const size_t count = std::min(wide, width - left);
      float largest = 0;
      for (size_t r = top; r < bottom; ++r)
        for (size_t i = 0; i < count; ++i)
          largest = std::max(largest, std::fabs(values[r * width + left + i]));
      for (size_t r = top; r < bottom; ++r) {
        const auto row = values.subspan(r * width + left, count);
        part.assign(row.begin(), row.end());
        for (const auto& value : undecided_values(as, part, largest))
          undecided.push_back({r, left + value.column, value.step});
        round_row(as, part, largest);
        std::ranges::transform(part, row.begin(), [](double x) { return static_cast<float>(x); });
      }
    }
  return undecided;
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
  const float max = largest_magnitude(block);
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
  } else if (is_short_float(kind)) {
    const double step = kind == "bf16" ? 0x1p-7 : 0x1p-10;
    for (size_t i = 0; i < row.size(); ++i)
      deviation[i] = std::max(std::fabs(row[i]) * step, kind == "f16" ? 0x1p-24 : 0.0) * uniform;
  } else if (is_fp8(kind)) {
    for (size_t i = 0; i < row.size(); ++i)
      deviation[i] = std::fabs(row[i]) * (is_e5m2(kind) ? 0x1p-2 : 0x1p-3) * uniform;
  } else {
    const double levels = kind == "q4_0" ? 8 : 127;
    const size_t block = block_of(kind, row.size());
    for (size_t begin = 0; begin < row.size(); begin += block) {
      const size_t size = std::min(block, row.size() - begin);
      const double step = static_cast<double>(largest_magnitude(row.subspan(begin, size))) / levels;
      for (size_t i = begin; i < begin + size; ++i) deviation[i] = step * uniform;
    }
  }
}

}  // namespace plumb::referee
