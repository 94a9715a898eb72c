// SPDX-License-Identifier: Apache-2.0
// The instrument tried on faults that are known: each row of the catalogue is put into runs of a
// model, and what is found is held against what was put in. The judge is not told.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "faults/catalogue.h"
#include "parity/parity.h"
#include "record/record.h"

namespace plumb {

struct SelfTestSetup {
  std::shared_ptr<const Model> model;
  const Backend* backend = nullptr;
  std::vector<std::pair<std::string, const Backend*>> levels;  // for equivalent runs
  std::vector<Token> prompt;
  size_t decode = 4;
  bool files = true;      // faults of a conversion, put into copies of the file
  std::string only;       // faults whose name begins with it; empty: all
  size_t most = 0;        // faults put in; 0: as many as there are places
  size_t rewrites = 200;  // equivalent runs; 0: none
  size_t threads = 1;
};

// One fault put into one run.
struct Trial {
  std::string fault, step, parameter;
  std::string visible;      // the step that a trace shows it at
  std::string side;         // that it was put into
  bool everything = false;  // scores and weights of attention were recorded too
  // What it changes at its step: the largest relative L2 distance of a row. Below kSmallest it is
  // no test of the catalogue but of the curve.
  double effect = 0;
  bool counts() const;
  bool failed_to_run = false;

  std::string found_step, found_side, found_reason, found_text;
  bool found = false;                    // anything at all
  std::vector<std::string> others;       // steps that were blamed beside
  bool same_values = false;              // another fault was named that gives the same values
  std::string audit_step, audit_reason;  // of the faulty run alone
  std::string held_out_reason;           // with the fault taken out of the catalogue
  bool held_out_same_values = false;

  bool step_right() const { return found && found_step == visible && others.empty(); }
  bool side_right() const { return found && found_side == side; }
  bool reason_right() const { return found_reason == fault; }
  bool audit_right() const { return audit_step == visible; }
  bool held_out_right() const { return held_out_reason == "unexplained" || held_out_same_values; }
};
constexpr double kSmallestEffect = 1e-3;

// A run that computes the same in another order.
struct Rewrite {
  std::string what;
  Verdict verdict = Verdict::Same;
  std::string why;  // of a false alarm
  bool false_alarm() const { return verdict != Verdict::Same && verdict != Verdict::Explained; }
};

// How small a fault is still found: a gain of 1 + 2^exponent at one step.
struct CurvePoint {
  int exponent = 0;
  size_t found = 0, of = 0;
};

// A fault of a conversion, put into a copy of the model file.
struct FileTrial {
  std::string name;
  bool found = false, right = false;  // any difference; one with the reason that it should have
  bool refused = false;               // the file could not be loaded, which says so by name
  std::string reason, text;
};

struct SelfTestResult {
  std::vector<FileTrial> files;
  std::vector<Trial> trials;
  std::vector<Rewrite> rewrites;
  std::vector<CurvePoint> curve;
  double seconds = 0;
};

// What has to be reached, in percent; contracts/self-test.yaml.
struct Floors {
  double step = 0, side = 0, reason = 0, audit = 0, held_out = 0;
  size_t false_alarms = 0, rewrites = 0;
  size_t faults = 0;       // that were tried with an effect; 0 where not all can be
  int curve_exponent = 0;  // gains of 1 + 2^exponent and more are all found
};
Result<Floors> read_floors(const std::string& yaml);

// Shares in percent of the trials that count.
struct Shares {
  size_t trials = 0, no_effect = 0, faults = 0;
  double step = 0, side = 0, reason = 0, same_values = 0, audit = 0, held_out = 0;
};
Shares shares_of(const std::vector<Trial>& trials, const std::string& kind = "");

// What is below its floor, one sentence each; empty: passed.
std::vector<std::string> below_floor(const SelfTestResult& result, const Floors& floors,
                                     const SelfTestSetup& setup);

// The model and the floors that are built into the program.
std::span<const std::byte> embedded_model();
std::string_view embedded_floors();

// Fails where the model cannot be run.
Result<SelfTestResult> self_test(
    const SelfTestSetup& setup,
    const std::function<void(const std::string&, size_t, size_t)>& progress);

// Every fault of a conversion that the file of the model can have; none if it is no GGUF. Needs as
// much room in the folder for temporary files as the model has.
Result<std::vector<FileTrial>> test_files(const std::shared_ptr<const Model>& model,
                                          Threads& threads);

// Where a fault can be put and what it becomes there.
struct Place {
  const Fault* fault;
  size_t step;
  FaultVariant variant;
};
// The first, a middle and the last layer, and what lies outside the layers. `largest`: of each
// step, the largest magnitude of a right run.
std::vector<Place> places_of(const Model& model, const Plan& plan, size_t prompt, size_t tokens,
                             const std::vector<double>& largest);

}  // namespace plumb
