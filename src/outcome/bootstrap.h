// SPDX-License-Identifier: Apache-2.0
// How sure a mean over correlated positions is: the block bootstrap. docs/outcome.md derives the
// choices.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "outcome/distributions.h"

namespace plumb {

// What one position adds to a statistic: the statistic is the sum of all sums over the sum of all
// counts. A position that has no such value has count 0.
struct Observation {
  double sum = 0, count = 0;
};
// By group (a prompt), then by position. Groups are independent; positions of one group are not.
using Series = std::vector<std::vector<Observation>>;

// What is drawn again and again, with replacement, to see how the statistic would vary.
struct Blocks {
  bool groups = true;  // whole groups; if not, `length` consecutive positions of a group, the first
                       // one after the last (moving blocks)
  size_t length = 1;
  double count = 0;  // how many such blocks the sample is made of
};

// Groups, where there are enough of them; else moving blocks, as long as the most correlated of the
// statistics asks for. All series have the same groups and positions.
constexpr size_t kEnoughGroups = 10;
Blocks choose_blocks(std::span<const Series> statistics);

// The length of moving blocks that is best for the variance of the mean: Politis and White (2004),
// with the correction of Patton, Politis and White (2009). 1 for independent positions.
size_t block_length(const Series& series);

struct BootstrapOptions {
  uint64_t seed = 1;
  size_t resamples = 5000;
  double confidence = 0.95;
  double power = 0.8;
};

struct BootstrapEstimate {
  double value = 0;  // NaN if no position has a value
  size_t count = 0;  // positions that have one
  // Absent where the value is not finite or there are fewer than two blocks.
  std::optional<double> error;       // standard error
  std::optional<Interval> interval;  // expanded percentile interval (Hesterberg 2015)
  std::optional<double> detectable;  // the smallest effect that a two-sided test at 1 - confidence
                                     // sees with that power
};

// Every statistic over the same resamples. The same seed gives the same digits on any machine.
std::vector<BootstrapEstimate> bootstrap(std::span<const Series> statistics, const Blocks& blocks,
                                         const BootstrapOptions& options);

// Standard errors between 0 and the smallest effect that is seen with `power`, of a mean of
// `blocks` independent parts: t(1 - (1 - confidence)/2) + t(power), for the t distribution with
// blocks - 1 degrees of freedom, times sqrt(blocks / (blocks - 1)). 2.80 for many blocks, 95 % and
// 80 %. `blocks` > 1.
double detectable_errors(double blocks, double confidence, double power);

}  // namespace plumb
