// SPDX-License-Identifier: Apache-2.0
#include "parity/strata.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

namespace plumb {
namespace {

constexpr size_t kFewest = 100;  // massive values are at most one of so many
constexpr double kFirstNorm = 5;
constexpr double kNamedShare = 1e-4;  // a channel with less is not worth a line

using Row = std::span<const double>;

Row row_of(const std::vector<double>& values, size_t row, size_t width) {
  return Row(values).subspan(row * width, width);
}

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

double norm(Row row) {
  double sum = 0;
  for (const double x : row) sum += x * x;
  return std::sqrt(sum);
}

// Which values are massive and which rows are those of first tokens, on any side.
class Membership {
 public:
  explicit Membership(size_t width) : width_(width) {}

  void look_at(const std::vector<int32_t>& positions, const std::vector<double>& values) {
    std::vector<double> norms;
    for (size_t r = 0; r < positions.size(); ++r) {
      const auto row = row_of(values, r, width_);
      norms.push_back(norm(row));
      look_at_row(positions[r], row);
    }
    auto sorted = norms;
    // A row that is not finite has no place in the order, and no norm to compare.
    std::erase_if(sorted, [](double x) { return !std::isfinite(x); });
    const double limit = sorted.empty() ? INFINITY : kFirstNorm * median(sorted);
    for (size_t r = 0; r < positions.size(); ++r)
      if (positions[r] == 0 || (limit > 0 && norms[r] >= limit)) first_.insert(positions[r]);
  }

  bool is_first(int32_t position) const { return first_.contains(position); }
  // Channels of the massive values of a row.
  const std::set<size_t>& massive_at(int32_t position) const {
    static const std::set<size_t> none;
    const auto found = massive_.find(position);
    return found == massive_.end() ? none : found->second;
  }
  void describe(StepStrata& strata) const {
    std::set<size_t> channels;
    for (const auto& [position, list] : massive_) {
      strata.massive_positions.push_back(position);
      channels.insert(list.begin(), list.end());
    }
    strata.channels.assign(channels.begin(), channels.end());
    strata.first_positions.assign(first_.begin(), first_.end());
    strata.times_median = times_median_;
  }

 private:
  void look_at_row(int32_t position, Row row) {
    const size_t few = (width_ + kFewest - 1) / kFewest;  // values that may be massive
    double all = 0;
    double largest = 0;
    for (const double x : row) {
      all += x * x;
      largest = std::max(largest, x * x);
    }
    if (!std::isfinite(all)) return;
    // The few largest hold at most `few` times the largest: with less than this the others outweigh
    // it. Most rows end here, without being sorted.
    if (largest * static_cast<double>(few + 1) <= all) return;
    sizes_.clear();
    for (const double x : row) sizes_.push_back(std::fabs(x));
    const auto ordinary = sizes_.end() - static_cast<ptrdiff_t>(few);
    std::ranges::nth_element(sizes_, ordinary);
    double energy = 0;
    for (auto x = sizes_.begin(); x != ordinary; ++x) energy += *x * *x;
    if (largest <= energy) return;
    const double middle = median(sizes_);
    for (size_t i = 0; i < width_; ++i) {
      if (row[i] * row[i] <= energy) continue;
      massive_[position].insert(i);
      if (middle > 0) times_median_ = std::max(times_median_, std::fabs(row[i]) / middle);
    }
  }

  size_t width_;
  std::map<int32_t, std::set<size_t>> massive_;
  std::set<int32_t> first_;
  double times_median_ = 0;
  std::vector<double> sizes_;
};

// Squares of the difference and of the reference, over one part of a row.
struct Squares {
  double error = 0, size = 0;
  size_t values = 0;
  double distance() const {
    if (error == 0) return 0;
    if (!std::isfinite(error)) return INFINITY;
    return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
  }
};

// The three parts of a row, in the order massive, first, rest.
using Parts = std::array<Squares, 3>;

Parts parts_of(Row reference, Row values, const std::set<size_t>& massive, bool first,
               const auto& known) {
  Parts parts;
  const auto add = [&](Squares& part, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (!known(i)) continue;
      const double d = reference[i] == values[i] ? 0 : reference[i] - values[i];  // inf - inf
      part.error += d * d;
      part.size += reference[i] * reference[i];
      ++part.values;
    }
  };
  size_t begin = 0;
  for (const size_t channel : massive) {
    add(parts[first ? 1 : 2], begin, channel);
    add(parts[0], channel, channel + 1);
    begin = channel + 1;
  }
  add(parts[first ? 1 : 2], begin, reference.size());
  return parts;
}

// The largest distance of each part, and the sums over all rows.
struct Sums {
  std::array<std::optional<double>, 3> largest;
  std::array<double, 3> error = {};
  std::array<size_t, 3> values = {};
  void add(const Parts& parts) {
    for (size_t s = 0; s < parts.size(); ++s) {
      if (parts[s].values == 0) continue;
      largest[s] = std::max(largest[s].value_or(0), parts[s].distance());
      error[s] += parts[s].error;
      values[s] += parts[s].values;
    }
  }
  std::optional<double> share(size_t stratum) const {
    const double all = error[0] + error[1] + error[2];
    if (!(all > 0) || !std::isfinite(all)) return {};
    return error[stratum] / all;
  }
};

Sums local_sums(const ReplayedStep& step, const Membership& membership) {
  Sums sums;
  const auto known = [](size_t) { return true; };  // what is not is 0 in both
  for (size_t r = 0; r < step.check.positions.size(); ++r) {
    const int32_t position = step.check.positions[r];
    sums.add(parts_of(row_of(step.referee, r, step.width), row_of(step.recorded, r, step.width),
                      membership.massive_at(position), membership.is_first(position), known));
  }
  return sums;
}

// Of the positions that both sides have.
Sums total_sums(const ReplayedStep& a, const ReplayedStep& b, const Membership& membership) {
  Sums sums;
  for (size_t r = 0; r < a.check.positions.size(); ++r) {
    const int32_t position = a.check.positions[r];
    const auto other = std::ranges::lower_bound(b.check.positions, position);
    if (other == b.check.positions.end() || *other != position) continue;
    const auto row = static_cast<size_t>(other - b.check.positions.begin());
    const auto known = [&](size_t i) {
      return (a.left_out.empty() || !a.left_out[r * a.width + i]) &&
             (b.left_out.empty() || !b.left_out[row * b.width + i]);
    };
    sums.add(parts_of(row_of(a.recorded, r, a.width), row_of(b.recorded, row, b.width),
                      membership.massive_at(position), membership.is_first(position), known));
  }
  return sums;
}

}  // namespace

std::optional<StepStrata> strata_of(const ReplayedStep& baseline, const ReplayedStep* candidate) {
  if (!baseline.check.name.ends_with("residual") || !baseline.check.measured()) return {};
  if (candidate != nullptr && (!candidate->check.measured() || candidate->width != baseline.width))
    return {};
  Membership membership(baseline.width);
  membership.look_at(baseline.check.positions, baseline.recorded);
  if (candidate != nullptr) membership.look_at(candidate->check.positions, candidate->recorded);
  else membership.look_at(baseline.check.positions, baseline.referee);
  StepStrata strata;
  membership.describe(strata);
  const auto local_a = baseline.referee.empty() ? Sums{} : local_sums(baseline, membership);
  const auto local_b = candidate == nullptr || candidate->referee.empty()
                           ? Sums{}
                           : local_sums(*candidate, membership);
  const auto total = candidate != nullptr ? total_sums(baseline, *candidate, membership) : Sums{};
  const auto& decisive = candidate != nullptr ? total : local_a;
  size_t s = 0;
  for (auto* part : {&strata.massive, &strata.first, &strata.rest}) {
    part->values = decisive.values[s];
    part->total = total.largest[s];
    part->local_baseline = local_a.largest[s];
    part->local_candidate = local_b.largest[s];
    part->share = decisive.share(s);
    ++s;
  }
  return strata;
}

std::optional<StepStrata> strata_of_recorded(const std::string& step, RecordedRows baseline,
                                             RecordedRows candidate, size_t width) {
  const auto as_step = [&](RecordedRows& rows) {
    ReplayedStep side;
    side.check.name = step;
    side.check.positions = std::move(rows.positions);
    side.recorded = std::move(rows.values);
    side.width = width;
    return side;
  };
  const auto b = as_step(candidate);
  return strata_of(as_step(baseline), &b);
}

std::vector<ChannelShare> channel_shares(const ReplayedStep& step, size_t most) {
  std::vector<ChannelShare> shares(step.width);
  double all = 0;
  for (size_t i = 0; i < step.recorded.size(); ++i) {
    const double d = step.recorded[i] - step.referee[i];
    shares[i % step.width].share += d * d;
    all += d * d;
  }
  if (!(all > 0) || !std::isfinite(all)) return {};
  for (size_t i = 0; i < shares.size(); ++i) {
    shares[i].channel = i;
    shares[i].share /= all;
  }
  most = std::min(most, shares.size());
  std::ranges::partial_sort(shares, shares.begin() + static_cast<ptrdiff_t>(most),
                            [](const ChannelShare& x, const ChannelShare& y) {
                              return std::pair(-x.share, x.channel) <
                                     std::pair(-y.share, y.channel);
                            });
  shares.resize(most);
  std::erase_if(shares, [](const ChannelShare& x) { return x.share < kNamedShare; });
  return shares;
}

}  // namespace plumb
