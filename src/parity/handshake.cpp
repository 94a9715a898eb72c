// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "parity/parity.h"

namespace plumb {
namespace {

Finding not_comparable(std::string reason, std::string side, std::string text) {
  Finding finding;
  finding.kind = "not_comparable";
  finding.reason = std::move(reason);
  finding.side = std::move(side);
  finding.text = std::move(text);
  return finding;
}

// Whether `longer` is `shorter` with its first token said once more.
bool doubled_start(const std::vector<Token>& longer, const std::vector<Token>& shorter) {
  return longer.size() == shorter.size() + 1 && !shorter.empty() && longer[0] == shorter[0] &&
         std::equal(shorter.begin(), shorter.end(), longer.begin() + 1);
}

std::optional<Finding> compare_tokens(const Side& a, const Side& b) {
  const auto& x = a.trace.tokens;
  const auto& y = b.trace.tokens;
  for (const auto* side : {&a, &b})
    if (side->trace.tokens.empty())
      return not_comparable("tokens.missing", side->role,
                            fmt::format("the {} does not say which tokens were fed", side->role));
  if (x == y) return {};
  if (doubled_start(x, y) || doubled_start(y, x)) {
    const auto& side = x.size() > y.size() ? a : b;
    return not_comparable("tokens.bos_doubled", side.role,
                          fmt::format("token {} is doubled at the start of the {}: {} tokens "
                                      "against {}; nothing is aligned by cutting",
                                      x[0], side.role, x.size(), y.size()));
  }
  const size_t common = std::min(x.size(), y.size());
  const size_t first = static_cast<size_t>(
      std::mismatch(x.begin(), x.begin() + static_cast<ptrdiff_t>(common), y.begin()).first -
      x.begin());
  const auto text =
      first < common
          ? fmt::format(
                "the tokens differ from position {} on: {} against {} ({} against {} tokens)",
                first, x[first], y[first], x.size(), y.size())
          : fmt::format(
                "the tokens are the same up to position {}, then one side ends: {} against {} "
                "tokens",
                first, x.size(), y.size());
  return not_comparable("tokens.different", "undecided", text);
}

}  // namespace

const char* to_text(Verdict verdict) {
  switch (verdict) {
    case Verdict::Same: return "SAME";
    case Verdict::Explained: return "EXPLAINED";
    case Verdict::Different: return "DIFFERENT";
    case Verdict::NotComparable: return "NOT_COMPARABLE";
    case Verdict::Unmeasured: return "UNMEASURED";
  }
  return "";
}

std::vector<Finding> check_identity(const Side& side) {
  if (!side.model) return {};
  for (const Token token : side.trace.tokens)
    if (static_cast<size_t>(token) >= side.model->config.vocabulary)
      return {not_comparable(
          "tokens.outside", side.role,
          fmt::format("the trace {} feeds token {}, but the vocabulary of {} has {}", side.label,
                      token, side.model->path, side.model->config.vocabulary))};
  const auto found = side.trace.provenance.model.find("sha256");
  if (found == side.trace.provenance.model.end() || found->second.empty() ||
      found->second == side.model->sha256)
    return {};
  return {not_comparable(
      "model.identity", side.role,
      fmt::format("the trace {} was made from another model file (sha256 {}…) than {} ({}…)",
                  side.label, found->second.substr(0, 12), side.model->path,
                  side.model->sha256.substr(0, 12)))};
}

std::vector<Finding> handshake(const Side& baseline, const Side& candidate) {
  std::vector<Finding> findings;
  if (auto tokens = compare_tokens(baseline, candidate)) findings.push_back(std::move(*tokens));
  else if (baseline.trace.prompt != candidate.trace.prompt)
    findings.push_back(
        not_comparable("phases.different", "undecided",
                       fmt::format("the prefill has {} tokens on one side and {} on the other",
                                   baseline.trace.prompt, candidate.trace.prompt)));
  for (const auto* side : {&baseline, &candidate})
    for (auto& finding : check_identity(*side)) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace plumb
