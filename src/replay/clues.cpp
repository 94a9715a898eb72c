// SPDX-License-Identifier: Apache-2.0
#include "replay/clues.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>

#include "replay/channel_order.h"

namespace plumb {
namespace {

// Values count as the same if they lie within this share of the root mean square of their row: far
// above rounding, far below what two channels have in common by chance in several rows.
constexpr double kSame = 1e-4;
constexpr double kMost = 0.9;  // of what must agree to be named

// The factor that brings the referee's values closest to the recorded ones.
double best_ratio(const ReplayedStep& wrong) {
  double cross = 0;
  double own = 0;
  for (size_t i = 0; i < wrong.recorded.size(); ++i) {
    if (!std::isfinite(wrong.recorded[i]) || !std::isfinite(wrong.referee[i])) continue;
    cross += wrong.recorded[i] * wrong.referee[i];
    own += wrong.referee[i] * wrong.referee[i];
  }
  return own > 0 ? cross / own : NAN;
}

// A difference that is the same vector at every position is a bias.
bool is_constant_vector(const ReplayedStep& wrong) {
  const size_t rows = wrong.check.positions.size();
  if (rows < 2 || wrong.check.non_finite > 0) return false;
  double mean = 0;
  double all = 0;
  for (size_t i = 0; i < wrong.width; ++i) {
    double sum = 0;
    for (size_t r = 0; r < rows; ++r) {
      const double d = wrong.recorded[r * wrong.width + i] - wrong.referee[r * wrong.width + i];
      sum += d;
      all += d * d;
    }
    mean += sum * sum / static_cast<double>(rows);
  }
  return mean > 0.99 * all;
}

// "from 5 on", "every 4th from 3 on": which of `count` numbers these are, in ascending order; empty
// if all are.
std::string which_of(const std::vector<size_t>& numbers, size_t count, size_t last) {
  if (numbers.empty() || numbers.size() == count) return {};
  if (numbers.size() == 1) return fmt::format("{} alone", numbers[0]);
  const size_t step = numbers[1] - numbers[0];
  bool even = true;
  for (size_t i = 1; i < numbers.size(); ++i) even = even && numbers[i] - numbers[i - 1] == step;
  if (even && step == 1)
    return numbers.back() == last ? fmt::format("from {} on", numbers[0])
                                  : fmt::format("{} to {}", numbers[0], numbers.back());
  if (even && numbers.size() > 2)
    return fmt::format("every {}{} from {} to {}", step,
                       step == 2   ? "nd"
                       : step == 3 ? "rd"
                                   : "th",
                       numbers[0], numbers.back());
  constexpr size_t kShown = 8;
  const size_t shown = std::min(kShown, numbers.size());
  return fmt::format("{}{}",
                     fmt::join(numbers.begin(), numbers.begin() + static_cast<long>(shown), ", "),
                     shown < numbers.size() ? fmt::format(", … ({} of {})", numbers.size(), count)
                                            : fmt::format(" ({} of {})", numbers.size(), count));
}

std::vector<size_t> wrong_channels(const ReplayedStep& wrong) {
  std::set<size_t> channels;
  for (size_t at = 0; at < wrong.outside.size(); ++at)
    if (wrong.outside[at]) channels.insert(at % wrong.width);
  return {channels.begin(), channels.end()};
}

// Groups of `size` channels, where the wrong ones are whole groups and not all; empty: they are
// not.
std::vector<size_t> whole_groups(const std::vector<size_t>& channels, size_t width, size_t size) {
  if (size < 2 || size >= width || width % size != 0) return {};
  std::map<size_t, size_t> members;
  for (const size_t channel : channels) ++members[channel / size];
  std::vector<size_t> groups;
  for (const auto& [group, count] : members) {
    // A value of a wrong group may be right by chance.
    if (static_cast<double>(count) < kMost * static_cast<double>(size)) return {};
    groups.push_back(group);
  }
  return groups.size() == width / size ? std::vector<size_t>() : groups;
}

std::string describe_channels(const ReplayedStep& wrong, size_t head_dim) {
  const auto channels = wrong_channels(wrong);
  if (channels.empty() || channels.size() == wrong.width) return {};
  if (const auto heads = whole_groups(channels, wrong.width, head_dim); !heads.empty())
    return "heads " + which_of(heads, wrong.width / head_dim, wrong.width / head_dim - 1);
  for (const size_t block : {256, 128, 64, 32})
    if (const auto blocks = whole_groups(channels, wrong.width, block); !blocks.empty())
      return fmt::format("blocks of {}: {}", block,
                         which_of(blocks, wrong.width / block, wrong.width / block - 1));
  return which_of(channels, wrong.width, wrong.width - 1);
}

// The right values at other channels.
std::string describe_order(const ReplayedStep& wrong, size_t head_dim) {
  constexpr size_t kRows = 8;
  const size_t rows = std::min(kRows, wrong.check.positions.size());
  if (rows < 2 || wrong.width < 4 || wrong.check.non_finite > 0) return {};
  const auto sources = source_of_channels(wrong, rows, kSame);
  std::set<size_t> used;
  size_t moved = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i] == sources.size()) continue;
    used.insert(sources[i]);
    moved += sources[i] == i ? 0 : 1;
  }
  if (moved < 2 || static_cast<double>(used.size()) < kMost * static_cast<double>(wrong.width))
    return {};
  return name_order(sources, head_dim);
}

bool same_row(const ReplayedStep& wrong, size_t recorded, size_t referee) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < wrong.width; ++i) {
    const double right = wrong.referee[referee * wrong.width + i];
    error += std::pow(wrong.recorded[recorded * wrong.width + i] - right, 2);
    size += right * right;
  }
  return error <= kSame * kSame * size;
}

// The right values at other positions.
std::string describe_rows(const ReplayedStep& wrong) {
  const auto& positions = wrong.check.positions;
  constexpr size_t kMostRows = 512;  // each is compared with each
  std::map<int32_t, size_t> by_shift;
  std::map<int32_t, size_t> by_source;
  size_t looked_at = 0;
  for (size_t r = 0; r < positions.size() && positions.size() <= kMostRows; ++r) {
    if (same_row(wrong, r, r)) continue;
    ++looked_at;
    for (size_t s = 0; s < positions.size(); ++s)
      if (s != r && same_row(wrong, r, s)) {
        ++by_shift[positions[s] - positions[r]];
        ++by_source[positions[s]];
        break;
      }
  }
  const auto most = [&](const std::map<int32_t, size_t>& counts) -> std::optional<int32_t> {
    for (const auto& [key, count] : counts)
      if (count > 1 && static_cast<double>(count) >= kMost * static_cast<double>(looked_at))
        return key;
    return {};
  };
  if (const auto shift = most(by_shift); shift && std::abs(*shift) == 1)
    return *shift < 0 ? "each wrong row is the one before" : "each wrong row is the one behind";
  else if (shift)
    return fmt::format("each wrong row is that of {} positions {}", std::abs(*shift),
                       *shift < 0 ? "before" : "behind");
  if (const auto source = most(by_source))
    return fmt::format("each wrong row is that of position {}", *source);
  size_t found = 0;
  for (const auto& [key, count] : by_source) found += count;
  return found > 1 && static_cast<double>(found) >= kMost * static_cast<double>(looked_at)
             ? "the wrong rows are those of other positions"
             : "";
}

// Read as (channels, positions) in place of (positions, channels).
bool is_transposed(const ReplayedStep& wrong) {
  const size_t rows = wrong.check.positions.size();
  if (rows < 2 || wrong.width < 2) return false;
  double error = 0;
  double size = 0;
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < wrong.width; ++i) {
      const size_t at = r * wrong.width + i;
      const double turned = wrong.referee[at % rows * wrong.width + at / rows];
      error += std::pow(wrong.recorded[at] - turned, 2);
      size += turned * turned;
    }
  return size > 0 && error <= kSame * kSame * size;
}

}  // namespace

std::map<std::string, std::string> find_clues(const Step& step, const ReplayedStep& wrong,
                                              size_t head_dim) {
  const auto& check = wrong.check;
  std::map<std::string, std::string> clues;
  const auto add = [&](const char* name, std::string text) {
    if (!text.empty()) clues[name] = std::move(text);
  };
  add("wrong_values", fmt::format("{} of {}", check.wrong_values, check.values));
  add("worst", fmt::format("position {}, channel {}", check.worst_position, check.worst_channel));
  if (check.non_finite > 0) add("non_finite", fmt::format("{}", check.non_finite));
  if (const double ratio = best_ratio(wrong); std::isfinite(ratio))
    add("best_ratio", fmt::format("{:.6g}", ratio));
  if (is_constant_vector(wrong))
    add("constant_vector", "the difference is the same at every position: a bias");
  const std::vector<size_t> positions(check.wrong_positions.begin(), check.wrong_positions.end());
  if (!check.positions.empty())
    add("positions",
        which_of(positions, check.positions.size(), static_cast<size_t>(check.positions.back())));
  if (is_on_request(step.op)) return clues;  // a row is heads times keys there
  add("channels", describe_channels(wrong, head_dim));
  add("order", describe_order(wrong, head_dim));
  add("rows", describe_rows(wrong));
  if (is_transposed(wrong)) add("transposed", "channels and positions are exchanged");
  return clues;
}

std::map<std::string, std::string> find_clues(const Replayer& replayer, const ReplayedStep& wrong) {
  const auto& name = wrong.check.name;
  const bool of_heads = std::ranges::any_of(
      std::initializer_list<const char*>{".attn.q", ".attn.k", ".attn.v", ".attn.mix"},
      [&](const char* part) { return name.find(part) != std::string::npos; });
  return find_clues(replayer.plan().steps[wrong.check.step], wrong,
                    of_heads ? replayer.model().config.head_dim : 0);
}

}  // namespace plumb
