// SPDX-License-Identifier: Apache-2.0
#include "replay/channel_order.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace plumb {
namespace {

constexpr double kMost = 0.9;  // of what must agree for an order to be named

std::vector<double> sizes_of_rows(const ReplayedStep& wrong) {
  std::vector<double> sizes;
  for (size_t r = 0; r < wrong.check.positions.size(); ++r) {
    double squares = 0;
    for (size_t i = 0; i < wrong.width; ++i)
      squares += std::pow(wrong.referee[r * wrong.width + i], 2);
    sizes.push_back(std::sqrt(squares / static_cast<double>(wrong.width)));
  }
  return sizes;
}

}  // namespace

std::vector<size_t> source_of_channels(const ReplayedStep& wrong, size_t rows, double share) {
  const size_t width = wrong.width;
  const auto sizes = sizes_of_rows(wrong);
  std::vector<size_t> by_value(width);
  std::iota(by_value.begin(), by_value.end(), size_t{0});
  std::ranges::sort(by_value, {}, [&](size_t i) { return wrong.referee[i]; });
  // The largest difference of two channels; infinite where they are not the same.
  const auto apart = [&](size_t recorded, size_t referee, double most) -> double {
    double largest = 0;
    for (size_t r = 0; r < rows; ++r) {
      const double size = std::max(sizes[r], 1e-300);
      const double d =
          std::fabs(wrong.recorded[r * width + recorded] - wrong.referee[r * width + referee]) /
          size;
      if (!(d <= most)) return INFINITY;
      largest = std::max(largest, d);
    }
    return largest;
  };
  std::vector<size_t> sources(width, width);
  for (size_t i = 0; i < width; ++i) {
    const double value = wrong.recorded[i];
    if (!std::isfinite(value)) continue;
    double best = apart(i, i, share);
    if (std::isfinite(best)) sources[i] = i;
    const double slack = share * sizes[0];
    auto at = std::ranges::lower_bound(by_value, value - slack, {},
                                       [&](size_t j) { return wrong.referee[j]; });
    for (; at != by_value.end() && wrong.referee[*at] <= value + slack; ++at)
      if (const double d = apart(i, *at, std::min(share, best)); d < best) {
        sources[i] = *at;
        best = d;
      }
  }
  return sources;
}

namespace {

// Whether channel i comes from order(i), as far as the sources are known.
template <typename Order>
bool is_order(const std::vector<size_t>& sources, Order order) {
  size_t agree = 0;
  for (size_t i = 0; i < sources.size(); ++i) agree += sources[i] == order(i) ? 1 : 0;
  return static_cast<double>(agree) >= kMost * static_cast<double>(sources.size());
}

// "1 0 2": the group of `size` channels that each is; empty where groups are not whole.
std::string order_of_groups(const std::vector<size_t>& sources, size_t size) {
  if (sources.size() % size != 0 || sources.size() < 2 * size) return {};
  std::vector<size_t> groups;
  for (size_t first = 0; first < sources.size(); first += size)
    groups.push_back(sources[first] / size);
  if (!is_order(sources, [&](size_t i) { return groups[i / size] * size + i % size; })) return {};
  return fmt::format("{}", fmt::join(groups, " "));
}

}  // namespace

std::string name_order(const std::vector<size_t>& sources, size_t head_dim) {
  const size_t width = sources.size();
  if (is_order(sources, [&](size_t i) { return width - 1 - i; })) return "in reverse";
  for (const size_t i : {size_t{0}, width / 2}) {
    if (sources[i] == width || sources[i] == i) continue;
    const size_t shift = (sources[i] + width - i) % width;
    if (!is_order(sources, [&](size_t at) { return (at + shift) % width; })) continue;
    if (2 * shift == width) return "the halves of a row exchanged";
    const bool back = 2 * shift > width;
    const size_t by = back ? width - shift : shift;
    return fmt::format("turned {}by {} channel{}", back ? "back " : "", by, by == 1 ? "" : "s");
  }
  const auto in_group = [&](size_t size, const std::string& of) -> std::string {
    if (size < 4 || width % size != 0 || size % 2 != 0) return {};
    const size_t half = size / 2;
    const auto order = [&](auto inner) {
      return is_order(sources, [&](size_t i) { return i / size * size + inner(i % size); });
    };
    if (order([&](size_t i) { return (i + half) % size; }))
      return "the halves of " + of + " exchanged";
    if (order([&](size_t i) { return i / 2 + (i % 2) * half; }))
      return "the halves of " + of + " in pairs";
    if (order([&](size_t i) { return i % half * 2 + i / half; }))
      return "the pairs of " + of + " in halves";
    if (order([&](size_t i) { return size - 1 - i; })) return of + " in reverse";
    return {};
  };
  if (head_dim > 1 && head_dim < width && width % head_dim == 0) {
    const size_t heads = width / head_dim;
    if (is_order(sources, [&](size_t i) { return i % head_dim * heads + i / head_dim; }) ||
        is_order(sources, [&](size_t i) { return i % heads * head_dim + i / heads; }))
      return fmt::format("{} heads x {} channels, transposed", heads, head_dim);
    if (auto name = order_of_groups(sources, head_dim); !name.empty())
      return "heads in another order: " + name;
    if (auto name = in_group(head_dim, "each head"); !name.empty()) return name;
  }
  if (auto name = in_group(width, "a row"); !name.empty()) return name;
  for (const size_t block : {256, 128, 64, 32, 16})
    if (auto name = order_of_groups(sources, block); !name.empty())
      return fmt::format("blocks of {} in another order: {}", block, name);
  std::vector<std::string> moved;
  constexpr size_t kShown = 4;
  for (size_t i = 0; i < width && moved.size() < kShown; ++i)
    if (sources[i] != i && sources[i] < width)
      moved.push_back(fmt::format("{} from {}", i, sources[i]));
  return fmt::format("another order: channel {}, …", fmt::join(moved, ", "));
}

}  // namespace plumb
