// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace plumb {

inline constexpr uint64_t kMemoryUnknown = UINT64_MAX;

// Bytes that this process can still use without swapping: the smaller of what the system has and
// what the limits of its control groups (v1 and v2, also those above it) leave. Cached pages of
// files count as free, since the system drops them when it must. kMemoryUnknown where nothing
// says. `root` is where proc and sys are.
uint64_t available_memory(const std::filesystem::path& root = "/");

// "12.3 GB", "850 kB": decimal units, three digits.
std::string format_bytes(uint64_t bytes);

}  // namespace plumb
