// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace plumb::cpu {

// The block types that are multiplied as they are, with activations rounded to int8 per 32. The
// rows of other block types are turned into float first.
constexpr bool has_int8_kernel(DType dtype) {
  switch (dtype) {
    case DType::Q4_0:
    case DType::Q4_1:
    case DType::Q5_0:
    case DType::Q5_1:
    case DType::Q8_0:
    case DType::Q2_K:
    case DType::Q3_K:
    case DType::Q4_K:
    case DType::Q5_K:
    case DType::Q6_K:
    case DType::IQ4_NL:
    case DType::IQ4_XS: return true;
    default: return false;
  }
}

Result<std::unique_ptr<Session>> open_session(const Kernels& kernels, const Model& model,
                                              const Plan& plan, const SessionOptions& options,
                                              Threads& threads);
uint64_t session_bytes(const Plan& plan, const SessionOptions& options);

}  // namespace plumb::cpu
