// SPDX-License-Identifier: Apache-2.0
#include "core/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

namespace plumb {
namespace {

namespace fs = std::filesystem;

std::string read_all(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

// The number that follows `key` at the begin of a line, after blanks; an empty key: the first one.
// Nothing for "max".
std::optional<uint64_t> number_behind(std::string_view text, std::string_view key) {
  size_t line = 0;
  while (line < text.size()) {
    const size_t end = std::min(text.find('\n', line), text.size());
    std::string_view rest = text.substr(line, end - line);
    line = end + 1;
    if (!rest.starts_with(key)) continue;
    rest.remove_prefix(key.size());
    rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error == std::errc() && stop != rest.data()) return value;
  }
  return std::nullopt;
}

uint64_t system_memory(const fs::path& root) {
  const auto kilobytes = number_behind(read_all(root / "proc/meminfo"), "MemAvailable:");
  uint64_t bytes = 0;
  if (!kilobytes || __builtin_mul_overflow(*kilobytes, uint64_t{1024}, &bytes))
    return kMemoryUnknown;
  return bytes;
}

// The files of one version of control groups.
struct GroupFiles {
  const char *folder, *limit, *usage;
  const char *inactive, *active;  // keys of memory.stat: cached pages of files
};
constexpr GroupFiles kV1 = {"sys/fs/cgroup/memory", "memory.limit_in_bytes",
                            "memory.usage_in_bytes", "total_inactive_file ", "total_active_file "};
constexpr GroupFiles kV2 = {"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ",
                            "active_file "};

uint64_t left_in(const fs::path& group, const GroupFiles& files) {
  const auto limit = number_behind(read_all(group / files.limit), "");
  const auto usage = number_behind(read_all(group / files.usage), "");
  if (!limit || !usage) return kMemoryUnknown;
  const auto stat = read_all(group / "memory.stat");
  const uint64_t cached = number_behind(stat, files.inactive).value_or(0) +
                          number_behind(stat, files.active).value_or(0);
  const uint64_t used = *usage - std::min(*usage, cached);
  return *limit - std::min(*limit, used);
}

// The group and all above it. A container often shows its own group as the top of the tree, and not
// under the name that /proc says: the top is always looked at.
uint64_t left_in_groups(const fs::path& root, const GroupFiles& files, fs::path group) {
  const fs::path top = root / files.folder;
  uint64_t left = left_in(top, files);
  for (int depth = 0; depth < 64 && !group.empty(); ++depth) {
    left = std::min(left, left_in(top / group, files));
    group = group.parent_path();
  }
  return left;
}

}  // namespace

uint64_t available_memory(const fs::path& root) {
  uint64_t left = system_memory(root);
  // Lines are ID:CONTROLLERS:/PATH; v2 has ID 0 and no controllers.
  std::istringstream groups(read_all(root / "proc/self/cgroup"));
  fs::path v1;
  fs::path v2;
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const auto path = fs::path(line.substr(second + 1)).relative_path();
    if (controllers == ",,") v2 = path;
    if (controllers.find(",memory,") != std::string::npos) v1 = path;
  }
  left = std::min(left, left_in_groups(root, kV1, v1));
  return std::min(left, left_in_groups(root, kV2, v2));
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::string_view kUnits[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  // 999.5 would be written as "1000".
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

}  // namespace plumb
