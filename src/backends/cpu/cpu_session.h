// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace plumb::cpu {

Result<std::unique_ptr<Session>> open_session(const Kernels& kernels, const Model& model,
                                              const Plan& plan, size_t capacity, Threads& threads);

}  // namespace plumb::cpu
