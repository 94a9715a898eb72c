// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/text_parts.h"

namespace plumb {
namespace {

constexpr size_t kWorstPrompts = 3;  // without --all

// Two significant digits, and all of a number up to a hundred.
std::string percent(double share) {
  if (share >= 0.1) return fmt::format("{:.0f} %", 100 * share);
  return fmt::format("{:.2g} %", 100 * share);
}

std::string counted(size_t n, const char* word) {
  return fmt::format("{} {}{}", n, word, n == 1 ? "" : "s");
}

void line(std::string& out, const char* label, const std::string& text) {
  out += fmt::format("  {:<9} {}\n", label, text);
}

std::string why_chosen(const SetOutcome& set) {
  if (set.chosen_differs)
    return "the first prompt whose logits differ by more than equivalent runs do";
  return "the first prompt: no prompt's logits differ by more than equivalent runs do";
}

// ", 95 % interval … to …; a change of … would have been seen". No figure stands without them.
std::string certainty(const BootstrapEstimate& e, std::string (*show)(double)) {
  if (!e.interval || !e.detectable) return "; no interval: too few positions, or not finite";
  return fmt::format(", 95 % interval {} to {}; a change of {} would have been seen",
                     show(e.interval->low), show(e.interval->high), show(*e.detectable));
}

std::string unseen(double share, const char* of) {
  return fmt::format("up to {} of {} could have gone unseen", percent(share), of);
}

std::string argmax_text(const SetOutcome& set) {
  std::string text = fmt::format("{} of {} changed", set.changes, set.positions);
  if (set.changes == 0)
    return text + fmt::format(
                      "; {} if they are independent, up to {} if those of a prompt change "
                      "together",
                      unseen(set.unseen_by_positions, "positions"), percent(set.unseen_by_prompts));
  if (set.ties > 0) text += fmt::format(" ({})", counted(set.ties, "tie"));
  return text + ": " + percent(set.changed.value) + certainty(set.changed, percent);
}

std::string parting_text(const SetOutcome& set) {
  const auto& parted = set.parted;
  std::string text = fmt::format("{} of {} part within {}", parted.events,
                                 counted(parted.count, "prompt"), counted(set.decode + 1, "token"));
  if (parted.events == 0) return text + "; " + unseen(parted.detectable, "such prompts");
  text +=
      fmt::format(": {}, 95 % interval {} to {}",
                  percent(static_cast<double>(parted.events) / static_cast<double>(parted.count)),
                  percent(parted.interval.low), percent(parted.interval.high));
  if (parted.events == parted.count || parted.detectable > 1) return text;
  return text + fmt::format("; a change of {} would have been seen", percent(parted.detectable));
}

std::string log_prob_text(const SetOutcome& set) {
  const auto& e = set.log_ratio;
  if (e.count == 0) return "none: every prompt is one token";
  std::string text = fmt::format("candidate less baseline, {} of the prompts: mean {}",
                                 counted(e.count, "token"), number(e.value));
  if (!e.interval || !e.detectable) return text + certainty(e, number);
  text += fmt::format(" nats, 95 % interval {} to {}", number(e.interval->low),
                      number(e.interval->high));
  const bool zero = e.interval->low <= 0 && e.interval->high >= 0;
  const auto seen = number(*e.detectable);
  return text + (zero ? fmt::format("; no difference seen, one of {} would have been", seen)
                      : fmt::format("; a change of {} would have been seen", seen));
}

std::string prompt_text(const Comparison& c, const PromptOutcome& prompt) {
  std::string text =
      fmt::format("line {}: KL mean {}, {} of {} argmax changed", prompt.line,
                  number(prompt.kl_mean()), prompt.changes(), prompt.positions.size());
  if (prompt.ties() > 0) text += fmt::format(" ({})", counted(prompt.ties(), "tie"));
  const auto at = prompt.parting_position();
  if (!at) return text;
  text += fmt::format(", parts at token {}", *prompt.parting() + 1);
  const auto& position = prompt.positions[*at];
  if (!position.finite) return text + ": logits that are no numbers";
  text += fmt::format(": {} → {} (margin {:.3g}", token_text(c, position.from),
                      token_text(c, position.to), position.margin);
  return text + (position.tie ? fmt::format(", tie floor {})", number(*position.tie)) : ")");
}

void add_prompts(std::string& out, const Comparison& c, bool all) {
  std::vector<const PromptOutcome*> rows;
  for (const auto& prompt : c.outcome->prompts)
    if (all || !prompt.identical) rows.push_back(&prompt);
  if (!all) {  // The worst ones; of equal ones the first.
    std::ranges::sort(rows, [](const auto* a, const auto* b) {
      return std::pair(-a->kl_mean(), a) < std::pair(-b->kl_mean(), b);
    });
    if (rows.size() > kWorstPrompts) rows.resize(kWorstPrompts);
  }
  for (const auto* prompt : rows) line(out, all ? "prompt" : "worst", prompt_text(c, *prompt));
}

std::string basis_text(const SetOutcome& set) {
  const auto& blocks = set.blocks;
  const auto what =
      blocks.groups
          ? fmt::format("whole prompts ({})", set.prompts.size())
          : fmt::format(
                "blocks of {} (fewer than {} prompts: the intervals speak of these "
                "prompts, not of others)",
                blocks.length == 1 ? "single positions"
                                   : fmt::format("{} consecutive positions", blocks.length),
                kEnoughGroups);
  return fmt::format(
      "{} resamples of {}, seed {}; seen: in a two-sided test at 5 %, with 80 % power",
      set.options.resamples, what, set.options.seed);
}

}  // namespace

std::string set_text(const Comparison& c, bool all) {
  if (!c.outcome) return {};
  const auto& set = *c.outcome;
  std::string out = fmt::format("\noutcome     {} of {}, {}, {} decoded after each\n",
                                counted(set.prompts.size(), "prompt"), set.file,
                                counted(set.positions, "position"), counted(set.decode, "token"));
  line(
      out, "steps",
      fmt::format("those above are of line {}, {}", set.prompts[set.chosen].line, why_chosen(set)));
  if (set.touched.events == 0) {
    line(out, "same",
         fmt::format("every logit has the same bits; a difference in {}",
                     unseen(set.touched.detectable, "such prompts")));
    if (all) add_prompts(out, c, true);
    return out;
  }
  if (set.not_finite > 0)
    line(out, "numbers",
         fmt::format("at {} a side has logits that are no numbers",
                     counted(set.not_finite, "position")));
  line(out, "KL", fmt::format("mean {} nats{}", number(set.kl.value), certainty(set.kl, number)));
  line(out, "argmax", argmax_text(set));
  line(out, "parting", parting_text(set));
  line(out, "log-prob", log_prob_text(set));
  add_prompts(out, c, all);
  line(out, "basis", basis_text(set));
  return out;
}

}  // namespace plumb
