// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "self_test/self_test.h"

namespace plumb {
namespace {

constexpr size_t kMostOfOneFault = 12;

// Layers to try: faults of a porter are in all of them, those of a schedule in one.
bool is_tried(const Model& model, const std::string& step) {
  if (!step.starts_with("layer.")) return true;
  const auto layer = static_cast<size_t>(std::atoi(step.c_str() + 6));
  const size_t last = model.config.layers - 1;
  return layer == 0 || layer == last / 2 || layer == last;
}

// Parameters that only a person can give.
std::optional<double> parameter_of(const Fault& fault, size_t tokens) {
  if (fault.name == "value.scaled") return 1.01;
  if (fault.name == "value.element" || fault.name == "value.not_finite")
    return static_cast<double>(tokens / 2);
  return {};
}

}  // namespace

std::vector<Place> places_of(const Model& model, const Plan& plan, size_t prompt, size_t tokens,
                             const std::vector<double>& largest) {
  std::vector<Place> places;
  for (const auto& fault : fault_catalogue()) {
    std::vector<Place> of_fault;
    for (size_t at = 0; at < plan.steps.size(); ++at) {
      if (!is_tried(model, plan.steps[at].name)) continue;
      const FaultContext context{.model = model,
                                 .plan = plan,
                                 .step = at,
                                 .parameter = parameter_of(fault, tokens),
                                 .first_position = static_cast<int32_t>(prompt / 2),
                                 .prompt = prompt,
                                 .largest = largest[at] / 2};
      auto variants = fault.variants(context);
      if (variants.empty()) continue;
      auto& variant = variants[of_fault.size() % variants.size()];  // they take turns
      of_fault.push_back({&fault, at, std::move(variant)});
    }
    // Some faults can be anywhere: a sample of their places.
    const size_t count = std::min(kMostOfOneFault, of_fault.size());
    for (size_t i = 0; i < count; ++i)
      places.push_back(std::move(of_fault[i * of_fault.size() / count]));
  }
  return places;
}

}  // namespace plumb
