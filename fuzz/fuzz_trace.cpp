// SPDX-License-Identifier: Apache-2.0
// Any bytes as a trace: an Error, or steps whose rows can all be read.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/check.h"
#include "trace/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto trace = plumb::parse_trace(bytes, nullptr, "fuzz");
  if (!trace) {
    CHECK(!trace.error().message.empty());
    return 0;
  }
  CHECK(trace->prompt <= trace->tokens.size());
  for (const int32_t token : trace->tokens) CHECK(token >= 0);
  for (const auto& [name, step] : trace->steps) {
    CHECK(plumb::is_step_name(name));
    CHECK(!step.positions.empty() && step.positions.front() >= 0);
    CHECK(step.view.bytes.size() ==
          plumb::bytes_of(step.view.dtype, step.positions.size() * step.width()));
    std::vector<double> row(step.width());
    for (size_t i = 0; i < step.positions.size(); ++i) {
      CHECK(i == 0 || step.positions[i] > step.positions[i - 1]);
      plumb::read_row(step, i, row);
    }
    (void)trace->arithmetic_of(name);
  }
  for (const auto& [name, entry] : trace->statistics) {
    CHECK(plumb::is_step_name(name) && !entry.positions.empty());
    for (size_t i = 0; i < entry.positions.size(); ++i) {
      CHECK(i == 0 || entry.positions[i] > entry.positions[i - 1]);
      const auto figures = entry.row(i);
      CHECK(figures.count > 0 && figures.non_finite >= 0 && figures.non_finite <= figures.count);
      if (entry.sketch) (void)entry.sketch_row(i);
    }
  }
  return 0;
}
