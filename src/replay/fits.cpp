// SPDX-License-Identifier: Apache-2.0
#include "replay/fits.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "backends/referee/rounding.h"
#include "quant/dequantize.h"
#include "replay/channel_order.h"

namespace plumb {
namespace {

// What somebody would have typed for x: one digit, two digits; then x itself.
std::vector<double> typed_for(double x) {
  const double power = std::pow(10.0, std::floor(std::log10(x)));
  return {std::round(x / power) * power, std::round(x / power * 10) / 10 * power, x};
}

// The row of a step's input at a position; empty if it was not recorded there.
std::vector<double> input_row(const Replayer& replayer, const Step& step, int32_t position,
                              size_t index = 0) {
  const auto* input = replayer.trace().find(replayer.plan().steps[step.inputs[index]].name);
  if (input == nullptr || input->elided) return {};
  const auto at = std::ranges::lower_bound(input->positions, position);
  if (at == input->positions.end() || *at != position) return {};
  std::vector<double> row(input->width());
  read_row(*input, static_cast<size_t>(at - input->positions.begin()), row);
  return row;
}

// The angle between -pi and pi by which the pairs of all heads were turned, weighted by their size.
double turned_by(const Step& step, size_t pair, const std::vector<double>& x, const double* y) {
  const auto [first, second] = rope_pair(step.rope, pair);
  double sine = 0;
  double cosine = 0;
  for (size_t head = 0; head < step.width; head += step.head_dim) {
    const double a = x[head + first];
    const double b = x[head + second];
    const double c = y[head + first];
    const double d = y[head + second];
    cosine += a * c + b * d;
    sine += a * d - b * c;
  }
  return std::atan2(sine, cosine);
}

}  // namespace

// Recorded = referee * sqrt((m + e) / (m + e')), both without the bias, so one row with a clear
// ratio gives e'. The row with the smallest mean square m shows it best.
std::vector<double> fit_epsilons(const Replayer& replayer, const ReplayedStep& wrong,
                                 const Step& step) {
  const size_t width = wrong.width;
  if (!is_norm(step.op) || norm_group(step) != width) return {};
  const auto bias = step.bias ? step.bias->values() : std::vector<float>(width, 0.0F);
  double best_square = INFINITY;
  double fitted = NAN;
  for (size_t r = 0; r < wrong.check.positions.size(); ++r) {
    const auto x = input_row(replayer, step, wrong.check.positions[r]);
    if (x.size() != width) return {};
    const auto count = static_cast<double>(width);
    const double mean =
        step.op == Op::LayerNorm ? std::accumulate(x.begin(), x.end(), 0.0) / count : 0;
    double square = 0;
    double cross = 0;
    double own = 0;
    for (size_t i = 0; i < width; ++i) {
      const auto shift = static_cast<double>(bias[i % bias.size()]);
      const double right = wrong.referee[r * width + i] - shift;
      square += (x[i] - mean) * (x[i] - mean) / count;
      cross += (wrong.recorded[r * width + i] - shift) * right;
      own += right * right;
    }
    const double ratio = cross / own;
    if (square >= best_square || !(ratio > 0)) continue;
    best_square = square;
    fitted = (square + step.epsilon) / (ratio * ratio) - square;
  }
  if (!(fitted > 0)) return {};
  return typed_for(fitted);
}

// A pair turns by position * base^(-2 pair / n) / divisor. At a small position no pair goes round,
// so a pair in the middle gives the base if the divisor is right, the first pair the divisor, and a
// slow one, at any position, how far the position is off.
FittedRope fit_rope(const Replayer& replayer, const ReplayedStep& wrong) {
  FittedRope fitted;
  const auto& step = replayer.plan().steps[wrong.check.step];
  const auto& rope = step.rope;
  if (step.op != Op::Rope || rope.dimensions < 4 || wrong.check.wrong_positions.empty()) return {};
  const auto frequencies = rope_frequencies(rope);
  const size_t middle = rope.dimensions / 4;
  for (size_t r = 0; r < wrong.check.positions.size(); ++r) {
    const int32_t position = wrong.check.positions[r];
    const auto x = input_row(replayer, step, position);
    if (x.size() != wrong.width) return fitted;
    const double* y = &wrong.recorded[r * wrong.width];
    const double slow = turned_by(step, middle, x, y);
    if (fitted.shifts.empty() && position == wrong.check.wrong_positions.front() &&
        frequencies[middle] != 0)
      fitted.shifts = {std::round(slow / frequencies[middle]) - position};
    if (position != 1 || rope.factors || rope.yarn) continue;
    const double unscaled = std::fabs(slow) * rope.linear_factor;
    if (unscaled > 0)
      fitted.bases = typed_for(std::pow(
          unscaled, -static_cast<double>(rope.dimensions) / (2 * static_cast<double>(middle))));
    if (const double fast = std::fabs(turned_by(step, 0, x, y)); fast > 0)
      fitted.divisors = typed_for(1 / fast);
  }
  return fitted;
}

namespace {

// The channels of which `wanted` says yes, if they stand side by side: the first and how many.
template <class Wanted>
std::optional<std::pair<size_t, size_t>> one_block(size_t width, const Wanted& wanted) {
  std::optional<std::pair<size_t, size_t>> block;
  for (size_t i = 0; i < width; ++i) {
    if (!wanted(i)) continue;
    if (!block) block = std::pair(i, 0);
    if (block->first + block->second++ != i) return {};
  }
  return block;
}

// What is right tells nothing.
bool is_wrong(const ReplayedStep& step, size_t channel) {
  for (size_t at = channel; at < step.outside.size(); at += step.width)
    if (step.outside[at]) return true;
  return false;
}

}  // namespace

std::optional<std::pair<size_t, size_t>> fit_zero_channels(const ReplayedStep& wrong) {
  return one_block(wrong.width, [&](size_t channel) {
    for (size_t at = channel; at < wrong.recorded.size(); at += wrong.width)
      if (wrong.recorded[at] != 0) return false;
    return is_wrong(wrong, channel);
  });
}

std::optional<std::pair<size_t, size_t>> fit_constant_channels(const ReplayedStep& wrong) {
  if (wrong.check.positions.size() < 2) return {};
  return one_block(wrong.width, [&](size_t channel) {
    for (size_t at = channel; at < wrong.recorded.size(); at += wrong.width)
      if (wrong.recorded[at] != wrong.recorded[channel]) return false;
    return is_wrong(wrong, channel);
  });
}

// What is off is (factor - 1) x of one input.
std::vector<FittedShare> fit_shares(const Replayer& replayer, const ReplayedStep& wrong) {
  constexpr double kMostLeft = 0.01;  // of the square of what is off; the replay tells for sure
  const auto& step = replayer.plan().steps[wrong.check.step];
  if (step.op != Op::Add || step.inputs.size() != 2) return {};
  std::vector<FittedShare> shares;
  for (const size_t input : {size_t{1}, size_t{0}}) {
    double cross = 0;
    double own = 0;
    double all = 0;
    for (size_t r = 0; r < wrong.check.positions.size(); ++r) {
      const auto x = input_row(replayer, step, wrong.check.positions[r], input);
      if (x.size() != wrong.width) return {};
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t at = r * wrong.width + i;
        const double off = wrong.recorded[at] - wrong.referee[at];
        cross += off * x[i];
        own += x[i] * x[i];
        all += off * off;
      }
    }
    if (!(own > 0) || !(cross * cross / own >= (1 - kMostLeft) * all)) continue;
    const double factor = 1 + cross / own;
    // What somebody would have typed, then what fits best.
    shares.push_back({input, {std::round(factor * 1e3) / 1e3, factor}});
  }
  return shares;
}

std::optional<FittedOrder> fit_order(const ReplayedStep& wrong, size_t head_dim) {
  constexpr double kSame = 0.02;  // a bf16 value of five times the root mean square is so far off
  constexpr size_t kRows = 8;     // more than enough to tell channels apart
  constexpr size_t kFewest = 2;   // of one row, values are alike by chance
  const size_t rows = std::min(kRows, wrong.check.positions.size());
  if (rows < kFewest || wrong.width < 2 || wrong.check.non_finite > 0) return {};
  const auto sources = source_of_channels(wrong, rows, kSame);
  bool moved = false;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i] == sources.size()) return {};
    moved = moved || sources[i] != i;
  }
  if (!moved) return {};
  return FittedOrder{sources, name_order(sources, head_dim)};
}

// An element that is d off adds d x_i to its channel at every position: the column i whose values
// explain the differences best, by least squares.
std::optional<FittedElement> fit_element(const Replayer& replayer, const ReplayedStep& wrong,
                                         const Step& product) {
  constexpr double kMostLeft = 0.1;  // of the differences; the replay tells for sure
  constexpr size_t kFewest = 3;      // positions; of fewer, many columns explain them
  std::vector<size_t> channels;
  for (size_t at = 0; at < wrong.outside.size(); ++at)
    if (wrong.outside[at]) channels.push_back(at % wrong.width);
  const auto& weight = *product.weight;
  const size_t rows = wrong.check.positions.size();
  if (product.op != Op::MatMul || rows < kFewest || channels.empty() ||
      weight.rows != wrong.width ||
      std::ranges::count(channels, channels[0]) != static_cast<std::ptrdiff_t>(channels.size()))
    return {};
  const size_t n = weight.columns;
  std::vector<double> cross(n);
  std::vector<double> squares(n);
  double all = 0;
  for (size_t r = 0; r < rows; ++r) {
    auto x = input_row(replayer, product, wrong.check.positions[r]);
    if (x.size() != n) return {};
    const auto& kind = wrong.check.arithmetic.activations;
    if (!referee::is_per_tensor(kind)) referee::round_row(kind, x);
    const size_t at = r * wrong.width + channels[0];
    const double error = (wrong.recorded[at] - wrong.referee[at]) / product.gain;
    all += error * error;
    for (size_t i = 0; i < n; ++i) {
      cross[i] += error * x[i];
      squares[i] += x[i] * x[i];
    }
  }
  size_t best = n;
  double explained = (1 - kMostLeft) * all;
  for (size_t i = 0; i < n; ++i)
    if (squares[i] > 0 && cross[i] * cross[i] / squares[i] > explained) {
      best = i;
      explained = cross[i] * cross[i] / squares[i];
    }
  if (best == n) return {};
  std::vector<float> row(n);
  dequantize(weight.dtype, weight.row(channels[0]), n, row.data());
  // Where the engine made its weights a shorter float, the wrong one is a number of it.
  const auto& kind = wrong.check.made_weights;
  const auto shorten = referee::short_float(kind);
  const auto own = static_cast<double>(row[best]);
  const double found = (shorten ? shorten(own) : own) + cross[best] / squares[best];
  const auto nearest = kind == "tf32/cut" ? referee::round_to_tf32 : shorten;
  return FittedElement{channels[0], best, nearest ? nearest(found) : found};
}

}  // namespace plumb
