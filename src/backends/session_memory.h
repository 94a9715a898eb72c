// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"
#include "core/memory.h"

namespace plumb {

// What a run takes and what there is, in bytes.
struct MemoryUse {
  uint64_t session = 0;  // cache of keys and values, activations, logits
  uint64_t model = 0;    // the files of the model: mapped, and read while it runs
  uint64_t available = kMemoryUnknown;
  uint64_t needed() const { return session > UINT64_MAX - model ? UINT64_MAX : session + model; }
};

// Refuses a session that does not fit beside its model into the memory that is free, with both
// figures and what would fit: another type of the cache, or fewer tokens. To be asked before
// Backend::open, which takes the memory.
Result<MemoryUse> check_memory(const Backend& backend, const Model& model, const Plan& plan,
                               const SessionOptions& options,
                               uint64_t available = available_memory());

}  // namespace plumb
