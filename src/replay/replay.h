// SPDX-License-Identifier: Apache-2.0
// One run against the referee: each recorded step is computed again from the inputs that the run
// itself recorded, so that a fault shows at its own step and nowhere else.
#pragma once
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "replay/bounds.h"
#include "replay/rounded_weights.h"
#include "trace/trace.h"

namespace plumb {

struct StepCheck {
  size_t step = 0;
  std::string name;
  std::vector<std::string> segment;  // what was computed, in order, the step itself last; more than
                                     // one where inputs were not recorded
  std::string unmeasured;            // why there is no result; empty: measured

  std::vector<int32_t> positions;         // the rows that were judged
  std::vector<double> local_by_position;  // relative L2 distance of each row
  double local = 0;                       // the largest of them
  double times_bound = 0;  // the largest |recorded - referee| / bound of any value; above 1: wrong
  double bound = 0;        // of that value, relative to the root mean square of its row
  size_t values = 0, wrong_values = 0, non_finite = 0;
  std::vector<int32_t> wrong_positions;
  int32_t worst_position = 0;
  size_t worst_channel = 0;

  Arithmetic arithmetic;     // that it was judged by
  std::string made_weights;  // what those of products were made first; empty: as the file has them
  bool declared = true;      // or the tightest that explains it
  std::string
      activations_by;  // "exact", or "deviation" where only the size of the rounding is known

  bool measured() const { return unmeasured.empty(); }
  bool wrong() const { return measured() && times_bound > 1; }
};

// The referee's values beside the recorded ones, for who needs more than the check.
struct ReplayedStep {
  StepCheck check;
  std::vector<double> recorded, referee;  // (positions, width); 0 in both where nothing is known
  std::vector<bool> outside;              // which values lie outside of their bound
  std::vector<bool> left_out;             // of an elided step: which values were not written down
  size_t width = 0;
};

class Replayer {
 public:
  Replayer(const Model& model, const Plan& plan, const Trace& trace, Threads& threads);

  // Judges one step. A step that the trace does not have is unmeasured.
  ReplayedStep check(size_t step) const;
  // The same with one step of the segment computed in another way: does that give the recorded
  // values? `positions` (at most that many of the judged ones, empty: all) makes a first look
  // cheap.
  ReplayedStep check_as(const StepCheck& wrong, size_t replaced, const Step& variant,
                        const std::vector<int32_t>& positions) const;

  // The wrong step under each arithmetic that could be meant, the tightest first.
  std::vector<StepCheck> ways_to_judge(const StepCheck& wrong) const;

  const Model& model() const { return model_; }
  const Plan& plan() const { return plan_; }
  const Trace& trace() const { return trace_; }
  size_t prompt() const { return trace_.prompt; }

 private:
  struct Attempt {
    Arithmetic arithmetic;
    bool deviation = false, declared = true;
  };
  struct Evaluation;
  std::vector<Attempt> attempts(size_t step, bool rare) const;
  std::vector<Attempt> declared_attempts(size_t step, const Arithmetic& declared) const;
  std::vector<Attempt> coarse_attempts(size_t step) const;
  static Attempt inside_of(const std::string& type);
  static void add_short_products(const std::string& weights, std::vector<Attempt>& list);
  std::string weights_in_file(size_t step) const;
  std::string cache_of(const Arithmetic& arithmetic) const;
  void add_attention(size_t step, std::vector<Attempt>& list) const;
  Arithmetic arithmetic_for(size_t step, const Evaluation& how, size_t target) const;
  std::string unknown_arithmetic(size_t step) const;
  bool is_made_of(size_t step, const std::string& type) const;
  bool is_input(size_t step) const;
  std::vector<int32_t> supported_from_inputs(const Step& step) const;
  std::vector<int32_t> judged_positions(size_t step) const;
  std::vector<size_t> segment_of(size_t step) const;
  BoundedValue read(size_t step, const std::vector<int32_t>& positions) const;
  void ignore_unseen(const Attention& attention, const std::vector<int32_t>& positions,
                     BoundedValue& weights) const;
  std::vector<BoundedValue> inputs_of(const Step& step, const std::vector<int32_t>& positions,
                                      Evaluation& how, size_t target) const;
  void allow_other_orders(const Step& step, const std::vector<int32_t>& positions,
                          const std::vector<BoundedValue>& inputs, double unit, Evaluation& how,
                          size_t target, BoundedValue& out) const;
  // Rounds the inputs of a product in place; returns what is undecided about them.
  std::vector<referee::Undecided> round_inputs(const Step& step, const std::string& kind,
                                               const std::vector<int32_t>& positions,
                                               BoundedValue& input) const;
  float largest_input(size_t step, int32_t position) const;
  BoundedValue evaluate(size_t step, const std::vector<int32_t>& positions, Evaluation& how,
                        size_t target) const;
  BoundedValue evaluate_plain(size_t step, const Step& as, const std::vector<int32_t>& positions,
                              Evaluation& how, size_t target) const;
  void refuse_wide_bounds(const BoundedValue& value, StepCheck& check) const;
  ReplayedStep judge(size_t step, const Attempt& attempt, std::vector<int32_t> positions,
                     std::optional<std::pair<size_t, Step>> variant) const;
  bool is_hopeless(const ReplayedStep& tightest, const Arithmetic& arithmetic) const;
  // What few engines do; whether it explained a step of this run.
  bool is_rare(size_t step, const Arithmetic& arithmetic) const;
  bool has_explained(const Arithmetic& arithmetic) const;
  void remember(size_t step, const Arithmetic& arithmetic) const;
  void judge_values(ReplayedStep& result, const RoundedStep& made, const BoundedValue& value,
                    const BoundedValue* input, const Attempt& attempt) const;
  std::vector<double> lazy_matmul_bounds(const RoundedStep& made, const ReplayedStep& result,
                                         const BoundedValue& input, const Attempt& attempt) const;
  std::string cannot_judge(size_t step) const;
  bool is_seen(const Step& step, int32_t position, size_t channel) const;

  const Model& model_;
  const Plan& plan_;
  const Trace& trace_;
  Threads& threads_;
  std::vector<const TraceStep*> recorded_;       // of each step of the plan, or null
  std::vector<std::vector<int32_t>> supported_;  // where each value is recorded or can be computed
  std::string kv_cache_;
  mutable RoundedWeights weights_;
  mutable std::mutex rare_mutex_;
  mutable std::vector<Arithmetic> rare_found_;  // that explained a step of this run
};

}  // namespace plumb
