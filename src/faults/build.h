// SPDX-License-Identifier: Apache-2.0
// What the rows of the catalogue are made with.
#pragma once
#include <fmt/format.h>

#include "faults/catalogue.h"

namespace plumb::faults {

using Variants = std::vector<FaultVariant>;

inline const Step& step_of(const FaultContext& c) { return c.plan.steps[c.step]; }

inline std::string number(double x) { return fmt::format("{:.6g}", x); }
inline std::string number(size_t x) { return fmt::format("{}", x); }

FaultVariant variant(Step step, std::string expected, std::string found, std::string text);
// The same, made when it is tried: for steps with a changed copy of a weight.
FaultVariant variant(std::function<Step()> make, std::string expected, std::string found,
                     std::string text);

// The given value, or those that engines use by mistake; never the right one.
std::vector<double> candidates(const FaultContext& c, double right, std::vector<double> usual);

// A whole number that a person gave, or the usual ones; those below `lowest` are left out.
std::vector<size_t> whole_candidates(const FaultContext& c, std::vector<size_t> usual,
                                     size_t lowest);

// Where the decode begins, or what somebody took for it: the prompt's end, the first wrong
// position.
std::vector<size_t> decode_candidates(const FaultContext& c);

// "layer.3." of "layer.3.attn.q"; empty outside the layers.
std::string layer_prefix(const std::string& step);

// A copy of a weight with other values, as floats.
std::shared_ptr<Weight> weight_of_floats(const Weight& like, const std::vector<float>& values);
// A copy with its own bytes, to be changed in place.
std::shared_ptr<Weight> weight_of_bytes(const Weight& like);

// A step that gives one of its inputs as it is.
Step passed_on(const Step& right, size_t input);
// The step reading other steps, each in place of its input `input`.
Variants read_elsewhere(const FaultContext& c, size_t input,
                        const std::function<bool(const Step&)>& is_meant);

std::vector<Fault> rope_faults();
std::vector<Fault> norm_faults();
std::vector<Fault> attention_faults();
std::vector<Fault> cache_faults();
std::vector<Fault> feed_forward_faults();
std::vector<Fault> flow_faults();
std::vector<Fault> weight_faults();
std::vector<Fault> block_faults();
std::vector<Fault> value_faults();

}  // namespace plumb::faults
