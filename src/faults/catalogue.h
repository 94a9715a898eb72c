// SPDX-License-Identifier: Apache-2.0
// Real faults of inference engines, one row each. A fault is an edit of one step, and the same edit
// is used twice: to inject it into a run, and to replay a wrong step and see whether it gives the
// wrong values.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/plan.h"

namespace plumb {

// Parameters of a rotation that its values show.
struct FittedRope {
  std::vector<double> bases, divisors, shifts;
};

// One element of a matrix that is not the file's.
struct FittedElement {
  size_t row = 0, column = 0;
  double value = 0;
};

// Channels that hold the values of others: the source of each, and what such an order is called.
struct FittedOrder {
  std::vector<size_t> sources;
  std::string name;
};

// An input of a sum that was multiplied by a factor first.
struct FittedShare {
  size_t input = 0;
  std::vector<double> factors;
};

// What is known about a wrong step before its cause is: it narrows the parameters to try.
struct FaultContext {
  const Model& model;
  const Plan& plan;
  size_t step = 0;
  std::optional<double> parameter = {};        // given by a person; then only this value is made
  std::optional<int32_t> first_position = {};  // the first position whose values are wrong
  std::vector<double> fitted_epsilons = {};    // from the ratio of norms
  FittedRope fitted_rope = {};
  size_t prompt = 0;                   // tokens of the prefill; 0: not known
  std::optional<double> largest = {};  // the largest magnitude that was recorded
  // Channels that are 0 at every position, the first and how many.
  std::optional<std::pair<size_t, size_t>> zero_channels = {};
  std::optional<FittedElement> fitted_element = {};
  std::optional<FittedOrder> fitted_order = {};
  std::vector<FittedShare> fitted_shares = {};
};

struct FaultVariant {
  std::function<Step()> step;                     // as a faulty engine computes it
  std::map<std::string, std::string> parameters;  // expected, found
  std::string text;                               // why, for a person: "it rotates neighbours …"
};

struct Fault {
  std::string name;     // the reason in reports: "rope.pairing"
  std::string summary;  // one line for lists
  std::string steps;    // which steps it is for, for people
  // The ways to be wrong at this step; empty: the fault does not apply to it. The first one is the
  // default to inject.
  std::function<std::vector<FaultVariant>(const FaultContext&)> variants;
};

const std::vector<Fault>& fault_catalogue();

// How many tokens a run is fed in all, and how many of them before it decodes: some faults begin
// there. 0: not known.
struct FedLength {
  size_t all = 0, prompt = 0;
};

// "NAME@STEP" or "NAME@STEP:PARAMETER" applied to a plan. Fails by name for an unknown fault or
// step, and where the fault does not apply to the step. A switch that changes nothing is an error.
Result<std::string> inject(const std::string& text, const Model& model, Plan& plan,
                           FedLength fed = {});

// The row of that name; fails by CHECK if there is none.
const Fault& fault_named(const std::string& name);

}  // namespace plumb
