// SPDX-License-Identifier: Apache-2.0
#include "faults/catalogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "faults/build.h"

namespace plumb {
namespace faults {

FaultVariant variant(Step step, std::string expected, std::string found, std::string text) {
  return variant([step = std::move(step)] { return step; }, std::move(expected), std::move(found),
                 std::move(text));
}

FaultVariant variant(std::function<Step()> make, std::string expected, std::string found,
                     std::string text) {
  return {std::move(make),
          {{"expected", std::move(expected)}, {"found", std::move(found)}},
          std::move(text)};
}

std::vector<double> candidates(const FaultContext& c, double right, std::vector<double> usual) {
  // 1e-5 of a person and of a file, which keeps it as a float, are one value: it would change
  // nothing.
  if (c.parameter)
    return static_cast<float>(*c.parameter) == static_cast<float>(right)
               ? std::vector<double>{}
               : std::vector{*c.parameter};
  std::vector<double> all;
  for (const double x : usual) {
    const bool is_right = x == right || std::fabs(x - right) <= 1e-6 * std::fabs(right);
    if (!is_right && std::ranges::find(all, x) == all.end()) all.push_back(x);
  }
  return all;
}

std::vector<size_t> whole_candidates(const FaultContext& c, std::vector<size_t> usual,
                                     size_t lowest) {
  if (c.parameter) {
    if (!(*c.parameter >= 0) || *c.parameter > 1e9 || *c.parameter != std::floor(*c.parameter))
      return {};
    usual = {static_cast<size_t>(*c.parameter)};
  }
  std::vector<size_t> all;
  for (const size_t x : usual)
    if (x >= lowest && std::ranges::find(all, x) == all.end()) all.push_back(x);
  return all;
}

std::vector<size_t> decode_candidates(const FaultContext& c) {
  std::vector<size_t> usual = {c.prompt};
  if (c.first_position) usual.push_back(static_cast<size_t>(*c.first_position));
  return whole_candidates(c, usual, 1);
}

std::string layer_prefix(const std::string& step) {
  return step.starts_with("layer.") ? step.substr(0, step.find('.', 6) + 1) : std::string();
}

std::shared_ptr<Weight> weight_of_floats(const Weight& like, const std::vector<float>& values) {
  auto weight = std::make_shared<Weight>(like);
  weight->dtype = DType::F32;
  weight->storage.resize(values.size() * sizeof(float));
  std::memcpy(weight->storage.data(), values.data(), weight->storage.size());
  weight->bytes = weight->storage;
  return weight;
}

std::shared_ptr<Weight> weight_of_bytes(const Weight& like) {
  auto weight = std::make_shared<Weight>(like);
  weight->storage.assign(like.bytes.begin(), like.bytes.end());
  weight->bytes = weight->storage;
  return weight;
}

Step passed_on(const Step& right, size_t input) {
  Step step = right;
  step.op = Op::Scale;
  step.factor = 1;
  step.inputs = {right.inputs[input]};
  step.weight = step.bias = nullptr;
  return step;
}

Variants read_elsewhere(const FaultContext& c, size_t input,
                        const std::function<bool(const Step&)>& is_meant) {
  const Step& right = step_of(c);
  const size_t own = right.inputs[input];
  const auto layer = layer_prefix(right.name);
  Variants all;
  // The layer's own steps, the nearest first, then what entered the layer.
  for (size_t at = c.step; at-- > 0;) {
    const Step& other = c.plan.steps[at];
    const bool outside = layer_prefix(other.name) != layer;
    if (at != own && other.width == c.plan.steps[own].width && !is_on_request(other.op) &&
        is_meant(other)) {
      Step step = right;
      step.inputs[input] = at;
      all.push_back(
          variant(step, c.plan.steps[own].name, other.name,
                  fmt::format("it takes {} in place of {}", other.name, c.plan.steps[own].name)));
    }
    if (outside) break;
  }
  return all;
}

}  // namespace faults

namespace {

// The order is that in which causes are looked for: what is cheap and specific first.
std::vector<Fault> make_catalogue() {
  std::vector<Fault> all;
  for (auto* group : {faults::rope_faults, faults::norm_faults, faults::attention_faults,
                      faults::cache_faults, faults::feed_forward_faults, faults::flow_faults,
                      faults::weight_faults, faults::block_faults, faults::value_faults})
    for (auto& fault : group()) all.push_back(std::move(fault));
  return all;
}

Result<double> parse_number(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    return fail(ErrorCode::Usage, fmt::format("'{}' is not a number", text));
  return value;
}

}  // namespace

const std::vector<Fault>& fault_catalogue() {
  static const std::vector<Fault> catalogue = make_catalogue();
  return catalogue;
}

const Fault& fault_named(const std::string& name) {
  const auto found = std::ranges::find(fault_catalogue(), name, &Fault::name);
  CHECK(found != fault_catalogue().end());
  return *found;
}

Result<std::string> inject(const std::string& text, const Model& model, Plan& plan, FedLength fed) {
  const size_t at = text.find('@');
  if (at == std::string::npos)
    return fail(ErrorCode::Usage,
                fmt::format("--inject '{}' must be NAME@STEP or NAME@STEP:PARAMETER", text));
  const auto name = text.substr(0, at);
  const size_t colon = text.find(':', at);
  const auto step_name = text.substr(at + 1, colon == std::string::npos ? colon : colon - at - 1);
  const auto fault = std::ranges::find(fault_catalogue(), name, &Fault::name);
  if (fault == fault_catalogue().end())
    return fail(
        ErrorCode::Usage,
        fmt::format("--inject: there is no fault '{}'; 'plumb trace --list-faults' shows all {}",
                    name, fault_catalogue().size()));
  const auto index = plan.find(step_name);
  if (!index)
    return fail(ErrorCode::Usage, fmt::format("--inject: this model has no step '{}'", step_name));
  // A fault of the decode changes nothing where nothing is decoded.
  FaultContext context{.model = model,
                       .plan = plan,
                       .step = *index,
                       .prompt = fed.all > fed.prompt ? fed.prompt : 0};
  if (colon != std::string::npos) {
    TRY_ASSIGN(context.parameter, parse_number(text.substr(colon + 1)));
  }
  auto variants = fault->variants(context);
  if (variants.empty())
    return fail(ErrorCode::Usage,
                fmt::format("--inject: '{}' does not apply to {}{} (it is for {})", name, step_name,
                            context.parameter ? " with this parameter"
                                              : ", or needs a parameter or tokens that are decoded",
                            fault->steps));
  plan.steps[*index] = variants[0].step();
  return fmt::format("{} at {}: {}", name, step_name, variants[0].text);
}

}  // namespace plumb
