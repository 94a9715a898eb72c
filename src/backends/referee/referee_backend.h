// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"

namespace plumb {

// Computes each step in double and carries doubles from step to step. Its traces hold doubles, that
// is every value as it was used: replaying them is exactly zero.
std::unique_ptr<Backend> make_referee_backend();

}  // namespace plumb
