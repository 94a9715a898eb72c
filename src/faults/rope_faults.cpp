// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "faults/build.h"

namespace plumb::faults {
namespace {

std::vector<double> with(std::vector<double> usual, const std::vector<double>& fitted) {
  usual.insert(usual.end(), fitted.begin(), fitted.end());
  return usual;
}

Variants rope_pairing(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Step step = step_of(c);
  const bool neighbours = step.rope.pairing == RopePairing::Neighbours;
  step.rope.pairing = neighbours ? RopePairing::Halves : RopePairing::Neighbours;
  const size_t half = step.rope.dimensions / 2;
  const auto halves = fmt::format("halves (i, i+{})", half);
  const std::string pairs = "neighbours (2i, 2i+1)";
  Variants all = {variant(step, neighbours ? "neighbours" : "halves",
                          neighbours ? "halves" : "neighbours",
                          fmt::format("it rotates {}; this model file pairs {}",
                                      neighbours ? halves : pairs, neighbours ? pairs : halves))};
  if (!neighbours) return all;
  step.rope.pairing = RopePairing::NeighboursOfHalves;
  all.push_back(variant(
      step, "halves", "neighbours",
      fmt::format("it rotates {} of a checkpoint whose rows are made for {}", pairs, halves)));
  return all;
}

Variants rope_theta(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Variants all;
  const std::vector<double> usual = {10000,    100000, 500000, 1000000, 5000000,
                                     10000000, 20000,  50000,  130000};
  for (const double base : candidates(c, step_of(c).rope.base, with(usual, c.fitted_rope.bases))) {
    if (!(base > 0) || !std::isfinite(base)) continue;
    Step step = step_of(c);
    step.rope.base = base;
    all.push_back(variant(step, number(step_of(c).rope.base), number(base),
                          fmt::format("it rotates with theta {}; the file says {}", number(base),
                                      number(step_of(c).rope.base))));
  }
  return all;
}

Variants rope_missing(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Step step = step_of(c);
  step.rope.dimensions = 0;
  return {variant(step, "rotated", "not rotated", "the values are those before the rotation")};
}

Variants rope_position(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Variants all;
  for (const double shift : candidates(c, 0, with({1, -1}, c.fitted_rope.shifts))) {
    if (std::fabs(shift) > 1e8 || shift != std::round(shift)) continue;
    Step step = step_of(c);
    step.rope.position_shift = static_cast<int32_t>(shift);
    all.push_back(variant(step, "0", number(shift),
                          fmt::format("every position is off by {}", number(shift))));
  }
  return all;
}

// What a scaling of RoPE does, left out: one part, or all.
Variants rope_scaling(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope) return {};
  Step plain = right;
  plain.rope.linear_factor = 1;
  plain.rope.factors = nullptr;
  plain.rope.yarn.reset();
  plain.rope.magnitude = 1;
  if (plain.rope == right.rope) return {};
  // A GGUF may have no word for it, only the factors.
  auto kind = c.model.config.rope_scaling.type;
  if (right.rope.factors && (kind.empty() || kind == "none")) kind = "factors of frequencies";
  Variants all = {
      variant(plain, kind, "none", fmt::format("the scaling of RoPE ({}) is not applied", kind))};
  if (right.rope.magnitude != 1) {
    Step step = right;
    step.rope.magnitude = 1;
    all.push_back(variant(step, number(right.rope.magnitude), "1",
                          "cosine and sine are not multiplied by the scaling's magnitude"));
    plain.rope.magnitude = right.rope.magnitude;
    all.push_back(variant(plain, "frequencies scaled", "magnitude alone",
                          "the frequencies of RoPE are not scaled"));
  }
  return all;
}

Variants rope_dimensions(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope) return {};
  const auto head = static_cast<double>(right.head_dim);
  Variants all;
  for (const double dimensions :
       candidates(c, static_cast<double>(right.rope.dimensions), {head, head / 2, head / 4})) {
    if (dimensions < 2 || dimensions > head || std::fmod(dimensions, 2) != 0 || right.rope.factors)
      continue;
    Step step = right;
    step.rope.dimensions = static_cast<size_t>(dimensions);
    all.push_back(variant(step, number(static_cast<double>(right.rope.dimensions)),
                          number(dimensions),
                          fmt::format("it rotates {} values of a head; the model {}",
                                      number(dimensions), right.rope.dimensions)));
  }
  return all;
}

Variants rope_direction(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Step step = step_of(c);
  step.rope.direction = -step.rope.direction;
  return {
      variant(step, "1", "-1", "it rotates in the other direction (the sine has the other sign)")};
}

// A scaling of positions that the model does not have, or another one.
Variants rope_linear_factor(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  const double right = step_of(c).rope.linear_factor;
  Variants all;
  for (const double factor : candidates(
           c, right, with({2, 4, 8, 16, 32, 1, 0.5, 0.25, 1 / right}, c.fitted_rope.divisors))) {
    if (!(factor > 0)) continue;
    Step step = step_of(c);
    step.rope.linear_factor = factor;
    all.push_back(variant(step, number(right), number(factor),
                          fmt::format("positions are divided by {}; the model divides by {}",
                                      number(factor), number(right))));
  }
  return all;
}

// Where a part of each head is rotated: the exponent divided by the whole head.
Variants rope_frequency_width(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope) return {};
  Variants all;
  for (const size_t width : {right.head_dim, right.width, right.rope.dimensions / 2}) {
    if (width == right.rope.dimensions || width == 0) continue;
    Step step = right;
    step.rope.frequency_dimensions = width;
    all.push_back(variant(step, number(right.rope.dimensions), number(width),
                          fmt::format("the exponent of the frequencies is divided by {}; the model "
                                      "divides it by the {} rotated values",
                                      width, right.rope.dimensions)));
  }
  return all;
}

// A loop over the wrong number of heads.
Variants rope_heads(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope || right.head_dim == 0) return {};
  const size_t heads = right.width / right.head_dim;
  Variants all;
  for (const size_t count : whole_candidates(c, {c.model.config.kv_heads, 1, heads - 1}, 1)) {
    if (count >= heads) continue;
    Step step = right;
    step.rope.first_heads = count;
    all.push_back(variant(step, number(heads), number(count),
                          fmt::format("only the first {} of {} heads are rotated", count, heads)));
  }
  return all;
}

Variants rope_tail(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope || right.rope.dimensions >= right.head_dim) return {};
  Step step = right;
  step.rope.first_channel = right.head_dim - right.rope.dimensions;
  return {variant(step, "the first", "the last",
                  fmt::format("the last {} values of each head are rotated, not the first",
                              right.rope.dimensions))};
}

// Positions of the decode that are counted anew, or off by one, while the prefill is right.
Variants rope_decode_position(const FaultContext& c) {
  if (step_of(c).op != Op::Rope) return {};
  Variants all;
  for (const size_t begin : decode_candidates(c)) {
    const auto from = static_cast<int32_t>(begin);
    for (const int32_t shift : {-from, 1, -1}) {
      Step step = step_of(c);
      step.rope.shift_from = from;
      step.rope.position_shift = shift;
      all.push_back(variant(
          step, "0", fmt::format("{}", shift),
          shift == -from
              ? fmt::format("positions begin at 0 again from position {} on", from)
              : fmt::format("from position {} on every position is off by {}", from, shift)));
    }
  }
  return all;
}

// Longrope's other list, or factors that multiply.
Variants rope_factors(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope || !right.rope.factors) return {};
  Variants all;
  Step step = right;
  step.rope.factors_multiply = true;
  all.push_back(variant(step, "divided", "multiplied",
                        "the frequencies are multiplied by their factors and not divided"));
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    const auto other = c.model.find(name);
    if (!other || other == right.rope.factors || other->count() != right.rope.factors->count())
      continue;
    Step swapped = right;
    swapped.rope.factors = other;
    all.push_back(variant(swapped, right.rope.factors->name, name,
                          fmt::format("the frequencies take their factors from {}", name)));
  }
  return all;
}

Variants rope_magnitude(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Rope || right.rope.dimensions == 0) return {};
  const double have = right.rope.magnitude;
  Variants all;
  for (const double found : candidates(c, have, {have * have, 1 / have})) {
    Step step = right;
    step.rope.magnitude = found;
    all.push_back(variant(step, number(have), number(found),
                          fmt::format("cosine and sine are multiplied by {}; the model says {}",
                                      number(found), number(have))));
  }
  return all;
}

}  // namespace

std::vector<Fault> rope_faults() {
  const char* steps = "attn.q_rope attn.k_rope";
  return {
      {"rope.pairing", "pairs of channels are taken the other way", steps, rope_pairing},
      {"rope.theta", "another base of the frequencies (parameter: the base)", steps, rope_theta},
      {"rope.missing", "no rotation", steps, rope_missing},
      {"rope.position", "positions are shifted (parameter: by how much)", steps, rope_position},
      {"rope.decode_position", "positions of the decode begin at 0 again (parameter: where)", steps,
       rope_decode_position},
      {"rope.direction", "rotated the other way round", steps, rope_direction},
      {"rope.scaling", "the scaling of RoPE is not applied", steps, rope_scaling},
      {"rope.linear_factor", "positions divided by another factor (parameter: the factor)", steps,
       rope_linear_factor},
      {"rope.factors", "factors of the frequencies multiplied, or the other list", steps,
       rope_factors},
      {"rope.magnitude", "another factor of cosine and sine (parameter: the factor)", steps,
       rope_magnitude},
      {"rope.dimensions", "another part of each head is rotated (parameter: its values)", steps,
       rope_dimensions},
      {"rope.frequency_width", "the exponent is divided by another width", steps,
       rope_frequency_width},
      {"rope.tail", "the last values of each head are rotated, not the first", steps, rope_tail},
      {"rope.heads", "only the first heads are rotated (parameter: how many)", steps, rope_heads},
  };
}

}  // namespace plumb::faults
