// SPDX-License-Identifier: Apache-2.0
#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

namespace plumb {
namespace {

// How many bytes at the end of `text` begin `stop`, less than all of it.
size_t started(std::string_view text, std::string_view stop) {
  size_t size = std::min(text.size(), stop.size() - 1);
  while (!text.ends_with(stop.substr(0, size))) --size;
  return size;
}

}  // namespace

StopStrings::StopStrings(const std::vector<std::string>& strings) {
  for (const auto& string : strings)
    if (!string.empty()) strings_.push_back(string);
}

std::string StopStrings::feed(std::string_view bytes) {
  if (found_) return {};
  held_ += bytes;
  size_t first = std::string::npos;
  for (const auto& stop : strings_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos || at > first) continue;
    if (at == first && stop.size() <= found_->size()) continue;
    first = at;
    found_ = stop;
  }
  size_t held = 0;
  for (const auto& stop : strings_) held = std::max(held, started(held_, stop));
  std::string out = held_.substr(0, found_ ? first : held_.size() - held);
  held_.erase(0, out.size());
  if (found_) held_.clear();
  return out;
}

std::string StopStrings::flush() { return std::exchange(held_, {}); }

}  // namespace plumb
