// SPDX-License-Identifier: Apache-2.0
#include "report/text_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace plumb {
namespace {

constexpr size_t kListed = 6;  // of a list of channels or positions

template <class Numbers>
std::string listed(const char* word, const Numbers& numbers) {
  if (numbers.size() > kListed) return fmt::format("{} {}s", numbers.size(), word);
  return fmt::format("{}{} {}", word, numbers.size() == 1 ? "" : "s", fmt::join(numbers, ", "));
}

// Channels with the number of steps that have them: those of the most steps first.
std::string channel_list(const std::map<size_t, size_t>& steps) {
  std::vector<std::pair<size_t, size_t>> order;  // steps and channel
  for (const auto& [channel, count] : steps) order.emplace_back(count, channel);
  std::ranges::sort(order, [](const auto& x, const auto& y) {
    return std::pair(y.first, x.second) < std::pair(x.first, y.second);
  });
  std::vector<size_t> channels;
  for (const auto& [count, channel] : order)
    if (channels.size() < kListed) channels.push_back(channel);
  auto text = listed("channel", channels);
  if (order.size() > kListed) text += fmt::format(" and {} more", order.size() - kListed);
  return text;
}

// One stratum over all steps: the largest differences and the steps that have them.
struct Worst {
  std::optional<double> total, local;
  std::string total_step, local_step;
  void look_at(const StratumDifference& stratum, const std::string& step) {
    if (stratum.total && (!total || *stratum.total > *total)) {
      total = stratum.total;
      total_step = step;
    }
    for (const auto& side : {stratum.local_baseline, stratum.local_candidate})
      if (side && (!local || *side > *local)) {
        local = side;
        local_step = step;
      }
  }
  std::string total_text() const {
    if (!total) return "total –";
    return fmt::format("total {}", number(*total)) +
           (*total > 0 ? fmt::format(" ({})", total_step) : "");
  }
  std::string text() const {
    std::string out = total ? total_text() : "";
    if (!local) return out;
    out += fmt::format("{}local {}", total ? ", " : "", number(*local));
    return out + (*local > 0 ? fmt::format(" ({})", local_step) : "");
  }
};

// The strata of all steps together.
struct StrataSummary {
  Worst massive, first, rest;
  std::map<size_t, size_t> channels;  // massive ones, and how many steps have them
  std::set<int32_t> positions, first_positions;
  double times_median = 0;
};
StrataSummary summary_of(const Comparison& c) {
  StrataSummary summary;
  for (const auto& row : c.steps) {
    if (!row.strata) continue;
    const auto& s = *row.strata;
    summary.massive.look_at(s.massive, row.name);
    summary.first.look_at(s.first, row.name);
    summary.rest.look_at(s.rest, row.name);
    for (const size_t channel : s.channels) ++summary.channels[channel];
    summary.positions.insert(s.massive_positions.begin(), s.massive_positions.end());
    summary.first_positions.insert(s.first_positions.begin(), s.first_positions.end());
    summary.times_median = std::max(summary.times_median, s.times_median);
  }
  return summary;
}

}  // namespace

std::string number(double x) {
  if (x == 0) return "0";
  if (std::isinf(x)) return "not finite";
  return fmt::format("{:.2g}", x);
}

std::string token_text(const Comparison& c, Token token) {
  for (const auto& side : c.sides)
    if (side.model && side.model->tokenizer) {
      std::string quoted;
      for (const char ch : side.model->tokenizer->piece(token)) {
        if (ch == '\n') quoted += "\\n";
        else if (static_cast<unsigned char>(ch) < 32 || ch == 127)
          quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(ch));
        else quoted += ch;
      }
      return fmt::format("\"{}\"", quoted);
    }
  return fmt::format("token {}", token);
}

std::string strata_text(const Comparison& c) {
  const auto s = summary_of(c);
  const auto first = fmt::format("first tokens ({})", listed("position", s.first_positions));
  if (s.channels.empty()) {
    if (s.first.total.value_or(0) == 0 && s.rest.total.value_or(0) == 0) return {};
    return fmt::format("  {:<9} residual stream, no massive values: {}: {}; the rest: {}\n",
                       "strata", first, s.first.total_text(), s.rest.total_text());
  }
  std::string out = fmt::format("  {:<9} residual stream, largest differences:\n", "strata");
  const auto add = [&](const std::string& what, const Worst& worst) {
    if (worst.total || worst.local) out += fmt::format("  {:<9} {}: {}\n", "", what, worst.text());
  };
  add(fmt::format("massive values ({} at {}, up to {:.0f} × the median of the row)",
                  channel_list(s.channels), listed("position", s.positions), s.times_median),
      s.massive);
  add(first + ", other values", s.first);
  add("the rest", s.rest);
  return out;
}

std::string channels_text(const Finding& finding) {
  // Three of many that hold nearly all of it: a difference of channels, not of the step's values.
  double sum = 0;
  std::vector<size_t> named;
  for (const auto& channel : finding.channels) {
    if (named.size() == 3) return {};
    named.push_back(channel.channel);
    sum += channel.share;
    if (sum < 0.9) continue;
    return fmt::format("{} hold{} {:.3g} % of the squared difference", listed("channel", named),
                       named.size() == 1 ? "s" : "", 100 * sum);
  }
  return {};
}

}  // namespace plumb
