// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <string_view>
#include <utility>

namespace plumb {

// contracts/names/*.yaml, put into the program by CMake: name without suffix, text.
std::span<const std::pair<std::string_view, std::string_view>> built_in_name_tables();

}  // namespace plumb
