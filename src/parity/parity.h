// SPDX-License-Identifier: Apache-2.0
// Two runs side by side, or one run alone, judged. The verdict says what differs, where, on which
// side and why, and what it costs; every figure comes with its denominator.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "outcome/prompt_set.h"
#include "parity/screen.h"
#include "parity/strata.h"
#include "replay/hypotheses.h"
#include "replay/replay.h"

namespace plumb {

enum class Verdict { Same, Explained, Different, NotComparable, Unmeasured };
const char* to_text(Verdict verdict);  // "SAME", …

// One side of a comparison. Without a model its steps cannot be replayed.
struct Side {
  std::string role;  // "baseline" or "candidate"
  std::string label;
  std::shared_ptr<const Model> model;
  Plan plan;
  Trace trace;
};

// How far equivalent runs of one side lie from each other: what no verdict may call a fault.
struct NoiseFloor {
  size_t runs = 0;
  double logits = 0;  // largest relative L2 distance of the logits of a position
  std::vector<double>
      ties;  // of each position: the largest change of a difference between two logits
};

// The effect on the outcome: A is the baseline, B the candidate.
struct Price {
  size_t positions = 0;                                       // with logits on both sides
  double kl_mean = 0, kl_median = 0, kl_p99 = 0, kl_max = 0;  // KL(A || B) in nats
  size_t not_finite =
      0;  // positions where a side has logits that are no numbers: they have no argmax
  size_t argmax_changes = 0,
         ties = 0;  // ties: changes where A's margin is not above the tie floor of the position
  std::optional<size_t> first_token_changed;  // index of the first generated token that differs; 0
                                              // is the one after the prompt
  Token first_from = 0, first_to = 0;
  double first_margin = 0;          // of A between the two, in logits
  std::optional<double> first_tie;  // the tie floor at that position
};

// What a finding does to the outcome, by runs of the model in which its fault is the only one, or
// the only one that is missing. KL divergences are means over the positions, in nats, from the
// right run.
struct Confirmation {
  bool control = false;           // two runs without any fault gave the same bits
  double alone = 0;               // the wrong values put into the right run
  double all = 0;                 // those of all findings of the side
  double healed = 0;              // of all others, with this step made right
  Price price;                    // of the run with this fault alone
  std::optional<double> account;  // what all together leave of the side's recorded outcome
};

struct Finding {
  std::string kind;  // static, arithmetic, fault, unexplained, not_comparable, unmeasured
  std::string step, tensor, key;
  std::vector<int> layers;
  std::string side;  // baseline, candidate, both, undecided
  std::string reason;
  std::map<std::string, std::string> parameters;
  std::string text;
  std::optional<int32_t> first_position;
  size_t position_count = 0;
  std::string phase;
  std::optional<double> local, bound, times_bound, reproduced_to;
  std::map<std::string, std::string> clues;
  std::vector<std::string> segment;
  std::vector<std::pair<size_t, Step>> edits;  // what makes a right run wrong in this way
  std::optional<Confirmation> confirmation;
  std::vector<ChannelShare> channels = {};  // of a wrong step: where its squared difference lies
};

struct StepRow {
  std::string name;
  std::optional<StepCheck> baseline, candidate;  // absent: that side has no such step
  std::optional<double> inherited, total;
  std::vector<double> total_by_position;
  std::string verdict;  // "ok", "ok, inherits", "WRONG (candidate)", "unmeasured: …"
  std::optional<StepStrata> strata = {};  // of the residual stream
};

struct Comparison {
  Verdict verdict = Verdict::Unmeasured;
  std::string why;
  bool audit = false;  // one side only
  std::vector<Side> sides;
  std::vector<Finding> findings;
  std::vector<StepRow> steps;
  size_t measured = 0, of = 0;
  size_t positions = 0;
  std::optional<Price> price;
  std::optional<NoiseFloor> floor;
  std::optional<SetOutcome> outcome;  // of a set of prompts; all else is of one of them
  std::vector<std::string> notes;
  std::optional<Screen> screen;  // where a side has statistics in place of values
};

// What forbids a comparison: other tokens, another split, a trace of another model file. Empty:
// they can be compared.
std::vector<Finding> handshake(const Side& baseline, const Side& candidate);
// A trace that names another model file than the one given.
std::vector<Finding> check_identity(const Side& side);

// Config against config, each weight against its partner.
std::vector<Finding> compare_models(const Side& baseline, const Side& candidate, Threads& threads);

// " on the candidate's side", or nothing where no side is named.
std::string finding_side_text(const std::string& side);

// Nothing if the sides share no recorded logits.
std::optional<Price> price_of(const Side& baseline, const Side& candidate,
                              const std::optional<NoiseFloor>& floor);

// The same of logits of all positions, row by row: (positions, width).
std::optional<Price> price_of_logits(std::span<const float> a, std::span<const float> b,
                                     size_t width, size_t prompt);

// Logits of all positions, row by row, of a model under a plan, fed with the tokens of the
// comparison.
using RunLogits = std::function<Result<std::vector<float>>(const Model& model, const Plan& plan)>;
// Confirms each finding about a wrong step and gives it a price of its own: its wrong values put
// into a right run must break it, and making the step right must heal what the others leave. Runs
// the model 3 + 2 n times for n findings of a side, 4 times for one: right twice, with all, with
// each and without each. At most kMostConfirmed of them.
constexpr size_t kMostConfirmed = 8;
Result<void> confirm(Comparison& comparison, const RunLogits& run);

// Progress is called with (done, all) steps.
using Progress = std::function<void(size_t, size_t)>;
Comparison compare(Side baseline, Side candidate, std::optional<NoiseFloor> floor, Threads& threads,
                   const Progress& progress);
Comparison audit(Side side, Threads& threads, const Progress& progress);

// Whether the two can be screened only: a side has no values, or no step can be replayed.
bool is_screening(const Side& baseline, const Side& candidate);
// Fills in what two screened sides show. Their models are compared as always; no step is judged.
void conclude_screen(Comparison& result, Threads& threads);
// One run without values beside the referee's on the same tokens. `run_referee` is called once the
// tokens are known to fit the model, and fails for reasons of its own.
Result<Comparison> screen_audit(Side side, const std::function<Result<Trace>()>& run_referee);

}  // namespace plumb
