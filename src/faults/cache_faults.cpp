// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "faults/build.h"

namespace plumb::faults {
namespace {

using CacheRow = std::function<std::optional<size_t>(size_t query, size_t key)>;

Step reading(const Step& right, CacheRow row) {
  Step step = right;
  step.attention.quirk =
      std::make_shared<const AttentionQuirk>(AttentionQuirk{.cache_row = std::move(row)});
  return step;
}

bool has_cache(const Step& step) { return step.op == Op::Scores || step.op == Op::Mix; }
const char* cache_name(const Step& step) { return step.op == Op::Scores ? "K" : "V"; }

// The position of one row that is wrong: as given, or the first one whose values are wrong.
std::vector<size_t> rows_to_try(const FaultContext& c, size_t lowest) {
  std::vector<size_t> usual;
  if (c.first_position) usual = {static_cast<size_t>(*c.first_position)};
  return whole_candidates(c, usual, lowest);
}

Variants kv_stale_row(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  Variants all;
  for (const size_t at : rows_to_try(c, 1)) {
    all.push_back(variant(
        reading(right,
                [at](size_t, size_t key) { return std::optional(key == at ? key - 1 : key); }),
        "the row of the position", "the row before it",
        fmt::format("the {} cache was not written at position {}: the row before it is read",
                    cache_name(right), at)));
    all.back().parameters["position"] = number(at);
  }
  return all;
}

Variants kv_zero_row(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  Variants all;
  for (const size_t at : rows_to_try(c, 0)) {
    all.push_back(variant(
        reading(right,
                [at](size_t, size_t key) { return key == at ? std::nullopt : std::optional(key); }),
        "the row of the position", "zeros",
        fmt::format("the {} cache holds zeros at position {}", cache_name(right), at)));
    all.back().parameters["position"] = number(at);
  }
  return all;
}

// Every row one place late.
Variants kv_shifted(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  return {variant(
      reading(right, [](size_t, size_t key) { return std::optional(key == 0 ? key : key - 1); }),
      "the row of the position", "the row before it",
      fmt::format("every row of the {} cache is read one place early", cache_name(right)))};
}

// The prefill attended to its own keys, and left nothing behind for the decode.
Variants kv_prefill_lost(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  Variants all;
  for (const size_t prompt : decode_candidates(c))
    all.push_back(variant(
        reading(right,
                [prompt](size_t query, size_t key) {
                  return query >= prompt && key < prompt ? std::nullopt : std::optional(key);
                }),
        "the prompt", "zeros",
        fmt::format("in the decode the {} cache holds zeros for the prompt: the prefill "
                    "did not write it",
                    cache_name(right))));
  return all;
}

// Every row of the prompt was written over the first.
Variants kv_overwritten(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  Variants all;
  for (const size_t prompt : decode_candidates(c)) {
    if (prompt < 2) continue;
    const auto row = [prompt](size_t query, size_t key) -> std::optional<size_t> {
      if (query < prompt || key >= prompt) return key;
      if (key == 0) return prompt - 1;
      return std::nullopt;
    };
    all.push_back(
        variant(reading(right, row), "one row a position", "all in the first",
                fmt::format("in the decode the first row of the {} cache holds the last token "
                            "of the prompt, the others zeros: all were written to one place",
                            cache_name(right))));
  }
  return all;
}

// The decode writes one place too far or too near: its own row is what was there before.
Variants kv_own_row(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_cache(right)) return {};
  Variants all;
  for (const size_t prompt : decode_candidates(c))
    all.push_back(variant(
        reading(right,
                [prompt](size_t query, size_t key) {
                  return query >= prompt && key == query ? std::nullopt : std::optional(key);
                }),
        "its own row", "zeros",
        fmt::format("in the decode a query finds zeros for its own position in the {} "
                    "cache: the row is written after it is read",
                    cache_name(right))));
  return all;
}

}  // namespace

std::vector<Fault> cache_faults() {
  const char* steps = "attn.scores (K) attn.mix (V)";
  return {
      {"kv.stale_row", "one row of the cache holds the row before it (parameter: its position)",
       steps, kv_stale_row},
      {"kv.zero_row", "one row of the cache is zero (parameter: its position)", steps, kv_zero_row},
      {"kv.shifted", "every row of the cache is read one place early", steps, kv_shifted},
      {"kv.prefill_lost", "the decode finds zeros for the prompt (parameter: its tokens)", steps,
       kv_prefill_lost},
      {"kv.overwritten", "the rows of the prompt were all written to one (parameter: its tokens)",
       steps, kv_overwritten},
      {"kv.own_row", "the decode does not find its own row (parameter: tokens of the prompt)",
       steps, kv_own_row},
  };
}

}  // namespace plumb::faults
