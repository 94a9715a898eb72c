// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <span>

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

// The longest run of tokens that two prompts share: where it begins in each, and its length.
struct SharedRun {
  size_t in_a = 0, in_b = 0, length = 0;
};
SharedRun shared_run(std::span<const Token> a, std::span<const Token> b) {
  constexpr size_t kMostPairs = size_t{1} << 26;  // half a second; a longer prompt has no such hint
  SharedRun best;
  if (a.empty() || b.size() > kMostPairs / a.size()) return best;
  std::vector<size_t> above(b.size() + 1);  // runs that end at the token of a before, by b
  std::vector<size_t> here(b.size() + 1);
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < b.size(); ++j) {
      here[j + 1] = a[i] == b[j] ? above[j] + 1 : 0;
      if (here[j + 1] > best.length) best = {i + 1 - here[j + 1], j + 1 - here[j + 1], here[j + 1]};
    }
    std::swap(above, here);
  }
  return best;
}

std::string text_of(const Side& side, std::span<const Token> tokens) {
  constexpr size_t kMost = 32;
  if (!side.model || !side.model->tokenizer || tokens.empty()) return {};
  std::string text;
  for (const Token token : tokens.first(std::min(kMost, tokens.size())))
    for (const char c : side.model->tokenizer->piece(token))
      text += c == '\n' ? "\\n" : static_cast<unsigned char>(c) < 32 ? "?" : std::string(1, c);
  return fmt::format(" (\"{}\"{})", text, tokens.size() > kMost ? "…" : "");
}

// The same text in another template: most of the shorter prompt stands in the longer one, farther
// behind.
std::optional<Finding> compare_wrapping(const Side& a, const Side& b) {
  const bool a_is_longer = a.trace.prompt > b.trace.prompt;
  const auto& longer = a_is_longer ? a : b;
  const auto& shorter = a_is_longer ? b : a;
  const auto outer = std::span(longer.trace.tokens).first(longer.trace.prompt);
  const auto inner = std::span(shorter.trace.tokens).first(shorter.trace.prompt);
  if (outer.size() == inner.size()) return {};
  const auto run = shared_run(inner, outer);
  if (run.length < 2 || 2 * run.length < inner.size() || run.in_b <= run.in_a) return {};
  const auto behind = outer.subspan(run.in_b + run.length);
  return not_comparable(
      "tokens.wrapped", longer.role,
      fmt::format("the prompts are wrapped differently: {} of the {} prompt tokens of the {} stand "
                  "in the {}'s prompt, from position {} on in place of {}, with {} tokens before "
                  "them{} and {} behind{} (another chat template, or none); nothing is aligned by "
                  "cutting",
                  run.length, inner.size(), shorter.role, longer.role, run.in_b, run.in_a, run.in_b,
                  text_of(longer, outer.first(run.in_b)), behind.size(), text_of(longer, behind)));
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
  if (auto wrapped = compare_wrapping(a, b)) return wrapped;
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
