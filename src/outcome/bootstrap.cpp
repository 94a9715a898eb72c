// SPDX-License-Identifier: Apache-2.0
#include "outcome/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "core/check.h"

namespace plumb {
namespace {

// Sums from the first position of a group on, so that any block of it costs two look-ups.
class BlockSums {
 public:
  explicit BlockSums(const Series& series) {
    for (const auto& group : series) {
      auto& sums = groups_.emplace_back(1);
      for (const auto& x : group)
        sums.push_back({sums.back().sum + x.sum, sums.back().count + x.count});
    }
  }
  // Of `length` positions from `first` on, going on at the start of the group where it ends.
  Observation block(size_t group, size_t first, size_t length) const {
    const auto& sums = groups_[group];
    const size_t size = sums.size() - 1;
    const size_t end = first + length;
    auto block = between(sums[first], sums[std::min(end, size)]);
    if (end > size) add(block, between(sums[0], sums[end - size]));
    return block;
  }
  Observation group(size_t group) const { return groups_[group].back(); }
  Observation all() const {
    Observation total;
    for (const auto& sums : groups_) add(total, sums.back());
    return total;
  }
  static void add(Observation& to, const Observation& x) {
    to.sum += x.sum;
    to.count += x.count;
  }

 private:
  static Observation between(const Observation& from, const Observation& to) {
    return {to.sum - from.sum, to.count - from.count};
  }
  std::vector<std::vector<Observation>> groups_;
};

// Where a block begins, each position of the sample equally often.
struct Place {
  size_t group, position;
};
std::vector<Place> places_of(const Series& series) {
  std::vector<Place> places;
  for (size_t g = 0; g < series.size(); ++g)
    for (size_t i = 0; i < series[g].size(); ++i) places.push_back({g, i});
  return places;
}

class Resampler {
 public:
  Resampler(std::span<const Series> statistics, const Blocks& blocks, uint64_t seed)
      : blocks_(blocks), places_(places_of(statistics[0])), random_(seed) {
    for (const auto& group : statistics[0]) sizes_.push_back(group.size());
    for (const auto& series : statistics) sums_.emplace_back(series);
  }
  const std::vector<BlockSums>& sums() const { return sums_; }

  // One resample: the total of each statistic.
  std::vector<Observation> draw() {
    std::vector<Observation> totals(sums_.size());
    if (blocks_.groups) draw_groups(totals);
    else draw_positions(totals);
    return totals;
  }

 private:
  // std::uniform_int_distribution gives other numbers in other libraries. The remainder prefers
  // small numbers by less than count / 2^64.
  size_t below(size_t count) { return static_cast<size_t>(random_() % count); }

  void draw_groups(std::vector<Observation>& totals) {
    for (size_t n = 0; n < sizes_.size(); ++n) {
      const size_t group = below(sizes_.size());
      for (size_t s = 0; s < sums_.size(); ++s) BlockSums::add(totals[s], sums_[s].group(group));
    }
  }
  // As many positions as the sample has; the last block is cut to fit.
  void draw_positions(std::vector<Observation>& totals) {
    for (size_t left = places_.size(); left > 0;) {
      const auto place = places_[below(places_.size())];
      const size_t length = std::min({blocks_.length, sizes_[place.group], left});
      for (size_t s = 0; s < sums_.size(); ++s)
        BlockSums::add(totals[s], sums_[s].block(place.group, place.position, length));
      left -= length;
    }
  }

  Blocks blocks_;
  std::vector<size_t> sizes_;
  std::vector<Place> places_;
  std::vector<BlockSums> sums_;
  std::mt19937_64 random_;
};

double standard_deviation(const std::vector<double>& values) {
  double mean = 0;
  for (const double x : values) mean += x / static_cast<double>(values.size());
  double square = 0;
  for (const double x : values) square += (x - mean) * (x - mean);
  return std::sqrt(square / static_cast<double>(values.size() - 1));
}

// Of sorted values, between neighbours linearly.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

// A resample of few blocks varies too little: by (blocks - 1) / blocks in variance, and as the
// normal where the t distribution is meant. Percentiles further out make up for both (Hesterberg
// 2015, section 4.3).
double expanded_tail(double blocks, double confidence) {
  const double t = student_t_quantile(1 - (1 - confidence) / 2, blocks - 1);
  return normal_cdf(-t * std::sqrt(blocks / (blocks - 1)));
}

// The values of a group that it has, less the mean of all.
std::vector<std::vector<double>> centred(const Series& series) {
  double sum = 0;
  double count = 0;
  for (const auto& group : series)
    for (const auto& x : group) {
      sum += x.sum;
      count += x.count;
    }
  std::vector<std::vector<double>> result;
  for (const auto& group : series) {
    result.emplace_back();
    for (const auto& x : group)
      if (x.count > 0) result.back().push_back(x.sum / x.count - sum / count);
  }
  return result;
}

double autocovariance(const std::vector<std::vector<double>>& groups, size_t lag, double count) {
  double sum = 0;
  for (const auto& x : groups)
    for (size_t i = 0; i + lag < x.size(); ++i) sum += x[i] * x[i + lag];
  return sum / count;
}

// The lag from which on the correlation is not to be told from none: the first behind which
// max(5, sqrt(log10 n)) in a row are below 2 sqrt(log10(n) / n).
size_t last_correlated_lag(const std::vector<double>& covariance, double count) {
  const double limit = 2 * std::sqrt(std::log10(count) / count);
  const auto needed = static_cast<size_t>(std::max(5.0, std::ceil(std::sqrt(std::log10(count)))));
  size_t quiet = 0;
  for (size_t lag = 1; lag < covariance.size(); ++lag) {
    quiet = std::fabs(covariance[lag] / covariance[0]) < limit ? quiet + 1 : 0;
    if (quiet == needed) return lag - needed;
  }
  return covariance.size() - 1 - quiet;
}

}  // namespace

size_t block_length(const Series& series) {
  const auto groups = centred(series);
  double count = 0;
  size_t longest = 0;
  for (const auto& x : groups) {
    count += static_cast<double>(x.size());
    longest = std::max(longest, x.size());
  }
  if (count < 2) return 1;
  // The cap of Politis and White, and at least three blocks.
  const double most = std::max(
      1.0, std::min({std::ceil(3 * std::sqrt(count)), count / 3, static_cast<double>(longest)}));
  std::vector<double> covariance;
  const size_t lags = std::min(longest, static_cast<size_t>(2 * most) + 6);
  for (size_t lag = 0; lag < lags; ++lag) covariance.push_back(autocovariance(groups, lag, count));
  if (!(covariance[0] > 0) || !std::isfinite(covariance[0])) return 1;
  const size_t window = 2 * last_correlated_lag(covariance, count);
  double spectrum = covariance[0];  // at frequency zero: the long-run variance
  double slope = 0;
  for (size_t lag = 1; lag <= window && lag < covariance.size(); ++lag) {
    // Flat to the middle of the window, then down to 0.
    const double at = static_cast<double>(lag) / static_cast<double>(window);
    const double weight = at <= 0.5 ? 1 : 2 * (1 - at);
    spectrum += 2 * weight * covariance[lag];
    slope += 2 * weight * static_cast<double>(lag) * covariance[lag];
  }
  if (slope == 0) return 1;
  if (!(spectrum > 0)) return static_cast<size_t>(most);  // no estimate: the longest is safe
  const double best = std::cbrt(1.5 * slope * slope / (spectrum * spectrum) * count);
  return static_cast<size_t>(std::clamp(std::round(best), 1.0, most));
}

Blocks choose_blocks(std::span<const Series> statistics) {
  CHECK(!statistics.empty());
  const auto& first = statistics[0];
  if (first.size() >= kEnoughGroups)
    return {.groups = true, .length = 1, .count = static_cast<double>(first.size())};
  Blocks blocks{.groups = false, .length = 1, .count = 0};
  for (const auto& series : statistics)
    blocks.length = std::max(blocks.length, block_length(series));
  double positions = 0;
  for (const auto& group : first) positions += static_cast<double>(group.size());
  blocks.count = positions / static_cast<double>(blocks.length);
  return blocks;
}

double detectable_errors(double blocks, double confidence, double power) {
  CHECK(blocks > 1);
  return (student_t_quantile(1 - (1 - confidence) / 2, blocks - 1) +
          student_t_quantile(power, blocks - 1)) *
         std::sqrt(blocks / (blocks - 1));
}

std::vector<BootstrapEstimate> bootstrap(std::span<const Series> statistics, const Blocks& blocks,
                                         const BootstrapOptions& options) {
  CHECK(!statistics.empty() && options.resamples > 1);
  Resampler resampler(statistics, blocks, options.seed);
  std::vector<BootstrapEstimate> estimates(statistics.size());
  std::vector<std::vector<double>> drawn(statistics.size());
  for (size_t s = 0; s < statistics.size(); ++s) {
    const auto all = resampler.sums()[s].all();
    estimates[s].value = all.sum / all.count;
    estimates[s].count = static_cast<size_t>(all.count);
  }
  if (blocks.count < 2) return estimates;
  for (size_t n = 0; n < options.resamples; ++n) {
    const auto totals = resampler.draw();
    // A resample without a single value of a statistic says nothing of it.
    for (size_t s = 0; s < totals.size(); ++s)
      if (totals[s].count > 0) drawn[s].push_back(totals[s].sum / totals[s].count);
  }
  const double tail = expanded_tail(blocks.count, options.confidence);
  const double errors = detectable_errors(blocks.count, options.confidence, options.power);
  for (size_t s = 0; s < statistics.size(); ++s) {
    if (!std::isfinite(estimates[s].value) || drawn[s].size() < 2) continue;
    std::ranges::sort(drawn[s]);
    estimates[s].error = standard_deviation(drawn[s]);
    estimates[s].interval = {quantile(drawn[s], tail), quantile(drawn[s], 1 - tail)};
    estimates[s].detectable = errors * *estimates[s].error;
  }
  return estimates;
}

}  // namespace plumb
