// SPDX-License-Identifier: Apache-2.0
// How far one run's probabilities are from another's, with llama-perplexity's definitions.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "score/perplexity.h"

namespace plumb {

// One position, seen by two runs. NaN where a row holds no probabilities.
struct PairRow {
  double kl = 0;  // Σ pA · (ln pA - ln pB)
  bool same_top = false;
  std::vector<size_t> shared;  // of the k best tokens of A and of B those in both, for each k
  std::optional<double> nll_a, nll_b;  // of the right token, if it is known
};
PairRow compare_rows(std::span<const float> a, std::span<const float> b,
                     std::optional<int32_t> right, std::span<const size_t> top_k);

class Divergence {
 public:
  explicit Divergence(std::vector<size_t> top_k)
      : top_k_(std::move(top_k)), shared_(top_k_.size()) {}
  void add(const PairRow& row);

  size_t count() const { return kl_.count(); }
  Estimate kl() const { return kl_.estimate(); }
  // The value that a share of the positions does not exceed, between neighbours linearly. Needs
  // count() > 0.
  double kl_quantile(double share) const;
  Estimate same_top() const;
  const std::vector<size_t>& top_k() const { return top_k_; }
  Estimate shared(size_t index) const { return shared_[index].estimate(); }  // 0 to 1

  // Of the positions whose right token is known.
  Estimate perplexity_a() const { return perplexity(nll_a_); }
  Estimate perplexity_b() const { return perplexity(nll_b_); }
  Estimate log_ratio() const;                                  // ln(perplexity B / perplexity A)
  Estimate ratio() const;                                      // perplexity B / perplexity A
  Estimate mean_change() const { return change_.estimate(); }  // of pB - pA
  Estimate rms_change() const;

 private:
  std::vector<size_t> top_k_;
  std::vector<double> kl_values_;
  std::vector<Mean> shared_;
  Mean kl_, nll_a_, nll_b_, change_, squared_change_;
  size_t same_top_ = 0;
  double nll_products_ = 0;
};

}  // namespace plumb
