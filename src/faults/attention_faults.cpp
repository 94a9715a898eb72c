// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "faults/build.h"

namespace plumb::faults {
namespace {

Step with_quirk(const Step& right, AttentionQuirk quirk) {
  Step step = right;
  step.attention.quirk = std::make_shared<const AttentionQuirk>(std::move(quirk));
  return step;
}

Variants attention_head_map(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto& a = right.attention;
  if ((right.op != Op::Scores && right.op != Op::Mix) || a.kv_heads <= 1) return {};
  const size_t group = a.heads / a.kv_heads;
  const size_t count = a.kv_heads;
  Variants all;
  if (group > 1)
    all.push_back(
        variant(with_quirk(right, {.kv_head = [count](size_t h) { return h % count; }}),
                "h / group", "h % kv_heads",
                fmt::format("query head h reads KV head h % {}; the model groups them: h / {}",
                            count, group)));
  all.push_back(variant(with_quirk(right, {.kv_head = [](size_t) { return size_t{0}; }}),
                        "h / group", "0", "every query head reads KV head 0"));
  all.push_back(
      variant(with_quirk(right, {.kv_head = [=](size_t h) { return (h / group + 1) % count; }}),
              "h / group", "the next one", "every query head reads the KV head behind its own"));
  return all;
}

Variants attention_scale(const FaultContext& c) {
  if (step_of(c).op != Op::Scores) return {};
  const auto& a = step_of(c).attention;
  const auto dim = static_cast<double>(a.head_dim);
  Variants all;
  for (const double scale : candidates(
           c, a.scale,
           {1.0, 1 / dim, 1 / std::sqrt(dim * static_cast<double>(a.heads)),
            1 / std::sqrt(static_cast<double>(c.model.config.width) / static_cast<double>(a.heads)),
            std::sqrt(dim)})) {
    Step step = step_of(c);
    step.attention.scale = scale;
    all.push_back(variant(step, number(a.scale), number(scale),
                          fmt::format("scores are scaled by {}; the model asks for {} (ratio {})",
                                      number(scale), number(a.scale), number(scale / a.scale))));
  }
  return all;
}

Variants attention_window(const FaultContext& c) {
  if (step_of(c).op != Op::Softmax) return {};
  const auto right = static_cast<double>(step_of(c).attention.window);
  std::vector<double> usual;
  if (right > 0) usual = {right + 1, right - 1, 0};
  else if (c.first_position && *c.first_position > 0)
    usual = {static_cast<double>(*c.first_position)};
  Variants all;
  for (const double window : candidates(c, right, usual)) {
    if (window < 0) continue;
    Step step = step_of(c);
    step.attention.window = static_cast<size_t>(window);
    all.push_back(variant(
        step, right == 0 ? "none" : number(right), window == 0 ? "none" : number(window),
        fmt::format("a query sees {} keys; the model says {}", window == 0 ? "all" : number(window),
                    right == 0 ? "all" : number(right))));
  }
  return all;
}

Variants alibi_missing(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::Scores || step.attention.alibi_max_bias == 0) return {};
  step.attention.alibi_max_bias = 0;
  return {variant(step, "ALiBi", "none", "scores do not fall with the distance (ALiBi)")};
}

Variants temperature_missing(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::Scores || step.attention.temperature_beta == 0) return {};
  step.attention.temperature_beta = 0;
  return {variant(step, "by position", "none", "the temperature of late positions is not applied")};
}

Variants attention_mask(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Softmax) return {};
  const size_t window = right.attention.window;
  const auto in_window = [window](size_t query, size_t key) {
    return window == 0 || key + window > query;
  };
  Variants all;
  all.push_back(variant(
      with_quirk(right, {.sees =
                             [=](size_t query, size_t visible, size_t key) {
                               return key < std::max(visible, query + 1) && in_window(query, key);
                             }}),
      "causal", "none", "queries see keys behind them: the causal mask is missing in the prefill"));
  return all;
}

Variants attention_mask_shift(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Softmax) return {};
  const size_t window = right.attention.window;
  Variants all;
  for (const double shift : candidates(c, 0, {1, -1})) {
    const auto sees = [=](size_t query, size_t visible, size_t key) {
      const auto last = static_cast<double>(query) + shift;
      if (query == 0 && key == 0) return true;  // somebody must be seen
      return key < std::max(visible, query + 1) && static_cast<double>(key) <= last &&
             (window == 0 || key + window > query);
    };
    all.push_back(variant(with_quirk(right, {.sees = sees}), "0", number(shift),
                          shift > 0 ? "a query sees the key behind it too: the mask is off by one"
                                    : "a query does not see its own key: the mask is off by one"));
  }
  return all;
}

// Keys that the mask or the cache loses.
Variants attention_first_key(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Softmax) return {};
  const size_t window = right.attention.window;
  Variants all;
  for (const size_t first : whole_candidates(c, {1, 2}, 1))
    all.push_back(variant(
        with_quirk(right, {.sees =
                               [=](size_t query, size_t, size_t key) {
                                 return key <= query && (key >= first || query < first) &&
                                        (window == 0 || key + window > query);
                               }}),
        "0", number(first),
        first == 1 ? "the first key is seen by nobody behind it"
                   : fmt::format("the first {} keys are seen by nobody behind them", first)));
  return all;
}

Variants attention_softmax(const FaultContext& c, SoftmaxQuirk quirk, const char* found,
                           const char* text) {
  const Step& right = step_of(c);
  if (right.op != Op::Softmax) return {};
  return {variant(with_quirk(right, {.softmax = quirk}), "softmax", found, text)};
}

Variants attention_extra_key(const FaultContext& c) {
  return attention_softmax(c, SoftmaxQuirk::ExtraKey, "one key more",
                           "the sum of the softmax holds one key more, with the score 0");
}

Variants attention_running_maximum(const FaultContext& c) {
  return attention_softmax(
      c, SoftmaxQuirk::NeverScaled, "not scaled",
      "the terms of the softmax are not scaled when the running maximum rises");
}

Variants attention_sum(const FaultContext& c) {
  return attention_softmax(c, SoftmaxQuirk::LastKeyMissed, "one key less",
                           "the sum of the softmax leaves the last key out");
}

Variants cap_order(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Scores || right.attention.softcap == 0) return {};
  return {variant(with_quirk(right, {.cap_before_scale = true}), "after the scale",
                  "before the scale", "scores are capped before they are scaled")};
}

Variants alibi_slope_of(const FaultContext& c) {
  const Step& right = step_of(c);
  const auto& a = right.attention;
  if (right.op != Op::Scores || a.alibi_max_bias == 0) return {};
  const auto heads = static_cast<double>(a.heads);
  const double bias = a.alibi_max_bias;
  Variants all;
  all.push_back(variant(
      with_quirk(
          right,
          {.slope = [=](size_t h) { return std::exp2(-bias * static_cast<double>(h) / heads); }}),
      "2^(-m(h+1)/n)", "2^(-mh/n)",
      "ALiBi's slopes begin at 1: they are those of the head before"));
  if ((a.heads & (a.heads - 1)) != 0)
    all.push_back(variant(with_quirk(right, {.slope =
                                                 [=](size_t h) {
                                                   return std::exp2(
                                                       -bias * static_cast<double>(h + 1) / heads);
                                                 }}),
                          "of the power of two", "of all heads",
                          "ALiBi's slopes are made as if the number of heads were a power of two"));
  for (const double other : {16.0, 4.0}) {
    if (other == bias) continue;
    Step step = right;
    step.attention.alibi_max_bias = other;
    all.push_back(variant(
        step, number(bias), number(other),
        fmt::format("ALiBi's largest bias is {}; the model says {}", number(other), number(bias))));
  }
  return all;
}

// Queries or keys as they are before the rotation, or before their norm.
Variants attention_source(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Scores) return {};
  Variants all;
  for (const size_t input : {size_t{0}, size_t{1}}) {
    const std::string part = input == 0 ? ".attn.q" : ".attn.k";
    for (auto& one : read_elsewhere(
             c, input, [&](const Step& step) { return step.name.find(part) != std::string::npos; }))
      all.push_back(std::move(one));
  }
  return all;
}

Variants attention_values(const FaultContext& c) {
  if (step_of(c).op != Op::Mix) return {};
  return read_elsewhere(c, 1, [](const Step& step) {
    return step.name.find(".attn.k") != std::string::npos ||
           step.name.find(".attn.q") != std::string::npos;
  });
}

// Heads side by side in another order: the layout of another kernel.
Variants attention_layout(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Mix || right.attention.heads < 2) return {};
  const size_t heads = right.attention.heads;
  const size_t dim = right.attention.head_dim;
  const auto with = [&](std::function<std::optional<size_t>(size_t)> channel) {
    Step step = right;
    step.quirk = std::make_shared<const Quirk>(Quirk{.channel = std::move(channel)});
    return step;
  };
  return {
      variant(with([=](size_t at) { return std::optional(at % heads * dim + at / heads); }),
              "[heads, values]", "[values, heads]",
              "the heads are interleaved: the layout is that of [values, heads]"),
      variant(
          with([=](size_t at) { return std::optional((heads - 1 - at / dim) * dim + at % dim); }),
          "0, 1, …", "…, 1, 0", "the heads stand in the reverse order"),
      variant(
          with([=](size_t at) { return std::optional((at / dim + 1) % heads * dim + at % dim); }),
          "h", "h + 1", "each head stands one place before its own")};
}

std::string cap_text(double cap) { return cap == 0 ? "none" : number(cap); }

// The soft cap of the scores or of the logits: left out, or the model's other one.
Variants cap(const FaultContext& c, bool missing) {
  const Step& right = step_of(c);
  const bool scores = right.op == Op::Scores;
  if (!scores && right.op != Op::SoftCap) return {};
  const double have = scores ? right.attention.softcap : right.factor;
  std::vector<double> usual = {0};
  if (!missing) usual = {30, 50, 20, have * have, 1 / have};
  if (missing && have == 0) return {};
  Variants all;
  for (const double found : candidates(c, have, usual)) {
    if (found < 0 || !std::isfinite(found) || missing != (found == 0)) continue;
    Step step = right;
    if (scores) {
      step.attention.softcap = found;
    } else {
      step.op = found == 0 ? Op::Scale : Op::SoftCap;
      step.factor = found == 0 ? 1 : found;
    }
    all.push_back(variant(step, cap_text(have), cap_text(found),
                          found == 0
                              ? fmt::format("the soft cap of {} is not applied", number(have))
                              : fmt::format("the soft cap is {}; the model asks for {}",
                                            number(found), cap_text(have))));
  }
  return all;
}
Variants cap_missing(const FaultContext& c) { return cap(c, true); }
Variants cap_value(const FaultContext& c) { return cap(c, false); }

}  // namespace

std::vector<Fault> attention_faults() {
  return {
      {"attention.scale", "another scale of the scores (parameter: the scale)", "attn.scores",
       attention_scale},
      {"attention.head_map", "query heads read the wrong KV head", "attn.scores attn.mix",
       attention_head_map},
      {"attention.source", "queries or keys before their rotation or norm", "attn.scores",
       attention_source},
      {"alibi.missing", "scores without ALiBi", "attn.scores", alibi_missing},
      {"alibi.slope", "other slopes of ALiBi", "attn.scores", alibi_slope_of},
      {"temperature.missing", "scores without their temperature", "attn.scores",
       temperature_missing},
      {"cap.missing", "the soft cap is not applied", "attn.scores logits", cap_missing},
      {"cap.value", "another soft cap (parameter: the cap)", "attn.scores logits", cap_value},
      {"cap.order", "the soft cap before the scale", "attn.scores", cap_order},
      {"attention.mask", "no causal mask in the prefill", "attn.weights", attention_mask},
      {"attention.mask_shift", "the causal mask is off by one (parameter: 1 or -1)", "attn.weights",
       attention_mask_shift},
      {"attention.window", "another sliding window (parameter: its keys)", "attn.weights",
       attention_window},
      {"attention.first_key", "the first keys are not seen (parameter: how many)", "attn.weights",
       attention_first_key},
      {"attention.extra_key", "a key of score 0 takes part in the softmax", "attn.weights",
       attention_extra_key},
      {"attention.running_maximum", "terms are not scaled when the running maximum rises",
       "attn.weights", attention_running_maximum},
      {"attention.sum", "the softmax is not divided by the sum of all", "attn.weights",
       attention_sum},
      {"attention.values", "keys or queries are mixed in place of values", "attn.mix",
       attention_values},
      {"attention.layout", "heads in another order", "attn.mix", attention_layout},
  };
}

}  // namespace plumb::faults
