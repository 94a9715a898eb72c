// SPDX-License-Identifier: Apache-2.0
#include "names/propose.h"

#include <fmt/format.h>

#include <cmath>

#include "names/tensor_values.h"

namespace plumb {
namespace {

// Lossy arithmetic and a fault further up move a value; another quantity is 1 away or more.
constexpr double kNear = 0.05;

// The last rows of the step against the tensor, taken as rows; infinite where it cannot be.
double distance_of(const std::vector<double>& values, const TraceStep& step) {
  const size_t width = step.width();
  if (values.size() % width != 0) return INFINITY;
  const size_t rows = values.size() / width;
  const size_t have = step.positions.size();
  if (rows > have) return INFINITY;
  std::vector<double> row(width);
  double error = 0;
  double size = 0;
  // A dump of the prompt alone has the first rows, one of the last token the last of the prompt.
  const size_t first = rows == 1 ? have - 1 : 0;
  for (size_t r = 0; r < rows; ++r) {
    read_row(step, first + r, row);
    for (size_t i = 0; i < width; ++i) {
      const double value = values[r * width + i];
      if (std::isnan(value)) continue;
      error += (value - row[i]) * (value - row[i]);
      size += row[i] * row[i];
    }
  }
  return size > 0 ? std::sqrt(error / size) : INFINITY;
}

}  // namespace

Result<std::vector<Proposal>> propose_names(const Dump& dump, const Imported& imported,
                                            const Plan& plan, const Trace* run) {
  std::vector<Proposal> out;
  if (run == nullptr) return out;
  for (size_t i = 0; i < dump.tensors.size(); ++i) {
    const auto& name = imported.names[i];
    if (!name.step.empty() || name.skipped || dump.tensors[i].pass > 0) continue;
    TRY_ASSIGN(const auto values, values_of(dump.tensors[i].view));
    Proposal best{i, "", kNear, ""};
    for (const auto& step : plan.steps) {
      const auto* reference = run->find(step.name);
      if (reference == nullptr || imported.trace.find(step.name) != nullptr || values.empty())
        continue;
      const double distance = distance_of(values, *reference);
      if (distance < best.distance) best = {i, step.name, distance, ""};
    }
    if (best.step.empty()) continue;
    best.why = fmt::format("{}, {:.2g} from the referee's values",
                           to_text(dump.tensors[i].view.shape), best.distance);
    out.push_back(std::move(best));
  }
  return out;
}

}  // namespace plumb
