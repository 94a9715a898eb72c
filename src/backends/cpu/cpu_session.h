// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace plumb::cpu {

// The block types that are multiplied as they are, with activations rounded to int8 per 32. The
// rows of other block types are turned into float first.
constexpr bool has_int8_kernel(DType dtype) {
  return dtype == DType::Q4_0 || dtype == DType::Q4_1 || dtype == DType::Q8_0 ||
         dtype == DType::Q4_K || dtype == DType::Q6_K;
}

Result<std::unique_ptr<Session>> open_session(const Kernels& kernels, const Model& model,
                                              const Plan& plan, size_t capacity, Threads& threads);

}  // namespace plumb::cpu
