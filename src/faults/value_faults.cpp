// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "faults/build.h"

namespace plumb::faults {
namespace {

Step rearranged(const Step& right, Quirk quirk) {
  Step step = right;
  step.quirk = std::make_shared<const Quirk>(std::move(quirk));
  return step;
}

// Rows of Scores and Softmax are as long as the sequence: nothing is moved in them.
// Numbers of experts are no values.
bool has_rows(const Step& step) { return step.width > 0 && step.op != Op::TopExperts; }

// Where a run of wrong rows begins: as given, or the first wrong position.
std::vector<size_t> first_rows(const FaultContext& c, size_t lowest) {
  std::vector<size_t> usual;
  if (c.first_position) usual = {static_cast<size_t>(*c.first_position)};
  return whole_candidates(c, usual, lowest);
}

// A buffer that was not written: the row of the position before, once or from there on; or the same
// old row for all.
Variants value_stale_rows(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_rows(right)) return {};
  Variants all;
  for (const size_t at : first_rows(c, 1)) {
    const auto first = static_cast<int32_t>(at);
    const auto add = [&](auto row, const std::string& found, const std::string& text) {
      all.push_back(variant(rearranged(right, {.row = row}), "its own row", found, text));
      all.back().parameters["position"] = number(at);
    };
    add([first](int32_t p) { return std::optional(p == first ? p - 1 : p); }, "the row before it",
        fmt::format("position {} has the row of the position before it", at));
    add([first](int32_t p) { return std::optional(p >= first ? p - 1 : p); },
        "the rows before them",
        fmt::format("from position {} on each has the row of the position before it", at));
    add([first](int32_t p) { return std::optional(std::min(p, first - 1)); }, "one old row",
        fmt::format("from position {} on all have the row of position {}: it is not computed anew",
                    at, at - 1));
  }
  return all;
}

Variants value_zero_rows(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_rows(right)) return {};
  Variants all;
  for (const size_t at : first_rows(c, 0)) {
    const auto first = static_cast<int32_t>(at);
    const auto add = [&](auto row, const std::string& text) {
      all.push_back(variant(rearranged(right, {.row = row}), "computed", "0", text));
      all.back().parameters["position"] = number(at);
    };
    add([first](int32_t p) { return p >= first ? std::nullopt : std::optional(p); },
        fmt::format("from position {} on every value is 0: the rows were not computed", at));
    add([first](int32_t p) { return p == first ? std::nullopt : std::optional(p); },
        fmt::format("every value of position {} is 0: the row was not computed", at));
  }
  return all;
}

// The end of a row that a tiled kernel does not reach.
Variants value_tail(const FaultContext& c) {
  const Step& right = step_of(c);
  Variants all;
  for (const size_t count : whole_candidates(c, {1, 2, 4, 8, 16, 32, 64, 128, 256}, 1)) {
    if (!has_rows(right) || count >= right.width) continue;
    const size_t end = right.width - count;
    all.push_back(variant(
        rearranged(
            right,
            {.channel = [end](size_t at) { return at < end ? std::optional(at) : std::nullopt; }}),
        "computed", "0",
        fmt::format("the last {} values of each row are 0: they were not computed", count)));
  }
  return all;
}

// One head, or a block of 32 values, that no thread computed; or what was recorded as zeros.
Variants value_zero_channels(const FaultContext& c) {
  const Step& right = step_of(c);
  const bool of_heads = right.name.find(".attn.q") != std::string::npos ||
                        right.name.find(".attn.k") != std::string::npos ||
                        right.name.find(".attn.v") != std::string::npos ||
                        right.name.find(".attn.mix") != std::string::npos;
  const size_t block = of_heads && c.model.config.head_dim > 0 ? c.model.config.head_dim : 32;
  Variants all;
  const auto add = [&](size_t first, size_t count) {
    if (!has_rows(right) || first + count > right.width || count == right.width) return;
    all.push_back(variant(rearranged(right, {.channel =
                                                 [=](size_t at) {
                                                   return at >= first && at - first < count
                                                              ? std::nullopt
                                                              : std::optional(at);
                                                 }}),
                          "computed", "0",
                          fmt::format("channels {} to {} are 0 at every position: they were not "
                                      "computed",
                                      first, first + count - 1)));
  };
  if (c.zero_channels) add(c.zero_channels->first, c.zero_channels->second);
  else
    for (const size_t at : whole_candidates(c, {1}, 0)) add(at * block, block);
  return all;
}

// Parts of a row in each other's place.
Variants value_order(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t width = right.width;
  Variants all;
  if (!has_rows(right)) return {};
  if (c.fitted_order) {
    if (c.fitted_order->sources.size() != width) return {};
    return {
        variant(rearranged(right, {.channel = [from = c.fitted_order->sources](
                                                  size_t at) { return std::optional(from[at]); }}),
                "0 1 2 3", c.fitted_order->name,
                fmt::format("channels hold the values of others: {}", c.fitted_order->name))};
  }
  if (width % 2 != 0) return {};
  for (const size_t block : whole_candidates(c, {width / 2, 1, 8, 16, 32, 64, 128}, 1)) {
    if (width % (2 * block) != 0) continue;
    all.push_back(variant(
        rearranged(right, {.channel =
                               [block](size_t at) {
                                 const bool even = at / block % 2 == 0;
                                 return std::optional(even ? at + block : at - block);
                               }}),
        "0 1 2 3", "1 0 3 2",
        block * 2 == width ? std::string("the two halves of each row are exchanged")
                           : fmt::format("neighbouring blocks of {} values are exchanged", block)));
  }
  return all;
}

Variants value_clamped(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_rows(right)) return {};
  const double largest = c.parameter ? *c.parameter : c.largest.value_or(0);
  if (!(largest > 0) || !std::isfinite(largest)) return {};
  return {variant(
      rearranged(right,
                 {.value = [largest](int32_t, size_t,
                                     double x) { return std::clamp(x, -largest, largest); }}),
      "unlimited", number(largest), fmt::format("values are cut off at {}", number(largest)))};
}

Variants value_zero(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_rows(right)) return {};
  return {variant(rearranged(right, {.value = [](int32_t, size_t, double) { return 0.0; }}),
                  "computed", "0", "every value is 0: the step was not computed")};
}

// For injection only: replay sees values that are not finite as a clue.
Variants value_not_finite(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!c.parameter || !has_rows(right)) return {};
  Step step = right;
  step.edit = ValueEdit{.position = static_cast<int32_t>(*c.parameter),
                        .channel = right.width / 3,
                        .multiply = 0,
                        .add = NAN};
  return {variant(step, "a number", "NaN",
                  fmt::format("channel {} of position {} is not a number", right.width / 3,
                              number(*c.parameter)))};
}

// For injection only: replay sees a single wrong value as a clue, and fits a constant ratio by
// itself.
Variants value_element(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!c.parameter || !has_rows(right)) return {};
  Step step = right;
  step.edit = ValueEdit{.position = static_cast<int32_t>(*c.parameter),
                        .channel = right.width / 3,
                        .multiply = 1.5,
                        .add = 0.5};
  return {variant(
      step, "x", "1.5 x + 0.5",
      fmt::format("channel {} of position {} is wrong", right.width / 3, number(*c.parameter)))};
}

Variants value_scaled(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!c.parameter || *c.parameter == 1 || !has_rows(right)) return {};
  Step step = right;
  step.gain = *c.parameter;
  return {variant(step, "1", fmt::format("{:.9g}", *c.parameter),
                  fmt::format("every value is multiplied by {:.9g}", *c.parameter))};
}

}  // namespace

std::vector<Fault> value_faults() {
  const char* any = "any step but attn.scores, attn.weights and ffn.experts";
  return {
      {"value.zero", "nothing is computed", any, value_zero},
      {"value.zero_rows", "rows are zero from a position on (parameter: the position)", any,
       value_zero_rows},
      {"value.stale_rows", "a row holds the one before it (parameter: the position)", any,
       value_stale_rows},
      {"value.tail", "the last values of each row are zero (parameter: how many)", any, value_tail},
      {"value.zero_channels", "a head, or 32 channels, are zero (parameter: which)", any,
       value_zero_channels},
      {"value.order", "blocks of each row are exchanged (parameter: their values)", any,
       value_order},
      {"value.clamped", "values are cut off (parameter: where)", any, value_clamped},
      {"value.scaled", "every value is multiplied (parameter: the factor)", any, value_scaled},
      {"value.element", "one value is wrong (parameter: its position)", any, value_element},
      {"value.not_finite", "one value is not a number (parameter: its position)", any,
       value_not_finite},
  };
}

}  // namespace plumb::faults
