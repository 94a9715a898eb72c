// SPDX-License-Identifier: Apache-2.0
#include "self_test/self_test.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "backends/cpu/cpu_backend.h"
#include "backends/referee/referee_backend.h"
#include "cli/commands.h"

namespace plumb::cli {
namespace {

struct SelfTestOptions {
  std::string model, only;
  InputOptions input;
  MachineOptions machine;
  size_t most = 0, rewrites = 200;
  bool json = false, all = false;

  // The whole catalogue, put into the model that is built in.
  bool is_whole() const { return model.empty() && only.empty() && most == 0 && !input.given(); }
};

// The model that is built in, read through a file of its own that is gone at once.
Result<Model> load_embedded() {
  const auto path =
      std::filesystem::temp_directory_path() / fmt::format("plumb-self-test-{}.gguf", getpid());
  const auto bytes = embedded_model();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) return fail(ErrorCode::Io, fmt::format("{}: cannot be written", path.string()));
  auto model = load_model(path);
  std::filesystem::remove(path);
  return model;
}

Result<std::vector<Token>> prompt_tokens(const SelfTestOptions& options, const Model& model) {
  if (options.input.given()) return read_tokens(options.input, model);
  return default_tokens(model, "One sunny day, Jane the little girl sat", 12,
                        model.config.vocabulary);
}

std::set<std::string> kinds_of(const std::vector<Trial>& trials) {
  std::set<std::string> kinds;
  for (const auto& trial : trials) kinds.insert(trial.fault.substr(0, trial.fault.find('.') + 1));
  return kinds;
}

void print_row(const std::string& name, const Shares& s) {
  const auto share = [&](double value) {
    return s.trials == 0 ? std::string("–") : fmt::format("{:.1f}", value);
  };
  fmt::print("{:<12}{:>7}{:>6}{:>11}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}\n", name, s.faults, s.trials,
             s.no_effect, share(s.step), share(s.side), share(s.reason), share(s.same_values),
             share(s.audit), share(s.held_out));
}

void print_trial(const Trial& trial) {
  fmt::print("{:<26} {:<28} {:<22} effect {:.1e}  ", trial.fault, trial.step, trial.parameter,
             trial.effect);
  if (!trial.counts()) {
    fmt::print("too small here\n");
    return;
  }
  fmt::print("{} {} {}", trial.found ? trial.found_step : "not found", trial.found_side,
             trial.found_reason);
  if (!trial.others.empty()) fmt::print("; blamed beside: {}", fmt::join(trial.others, ", "));
  if (!trial.audit_right())
    fmt::print("; audit: {}", trial.audit_step.empty() ? "nothing" : trial.audit_step);
  fmt::print("; held out: {}{}\n", trial.held_out_reason,
             trial.held_out_same_values ? " (the same values)" : "");
}

bool is_clean(const Trial& trial) {
  return !trial.counts() || (trial.step_right() && trial.side_right() && trial.audit_right() &&
                             (trial.reason_right() || trial.same_values) && trial.held_out_right());
}

void print_files(const SelfTestResult& result, bool all) {
  if (result.files.empty()) return;
  size_t right = 0;
  for (const auto& file : result.files) right += file.right || file.refused;
  fmt::print("\nFaults of a conversion, put into copies of the file: {}, found: {}\n",
             result.files.size(), right);
  for (const auto& file : result.files)
    if (all || (!file.right && !file.refused))
      fmt::print("  {:<36} {}: {}\n", file.name,
                 file.refused ? "refused"
                 : file.found ? file.reason
                              : "NOT FOUND",
                 file.text);
}

void print_text(const SelfTestResult& result, const SelfTestOptions& options,
                const std::vector<std::string>& missed) {
  fmt::print(
      "Faults put into runs, and what was found (percent of the runs where the fault changes "
      "its step by {:g} or more)\n\n",
      kSmallestEffect);
  fmt::print("{:<12}{:>7}{:>6}{:>11}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}\n", "kind", "faults", "runs",
             "no effect", "step", "side", "reason", "equal", "audit", "held out");
  for (const auto& kind : kinds_of(result.trials))
    print_row(kind.substr(0, kind.size() - 1), shares_of(result.trials, kind));
  print_row("all", shares_of(result.trials));
  fmt::print(
      "\nequal: named as another fault that gives the same values. held out: the row of the "
      "fault taken out of the catalogue.\n");
  bool first = true;
  for (const auto& trial : result.trials) {
    if (!options.all && is_clean(trial)) continue;
    if (first) fmt::print("\n{}\n", options.all ? "Every run" : "Not as it should be");
    first = false;
    print_trial(trial);
  }
  print_files(result, options.all);
  const auto alarms = std::ranges::count_if(result.rewrites, &Rewrite::false_alarm);
  if (!result.rewrites.empty())
    fmt::print("\nEquivalent runs: {}, false alarms: {}\n", result.rewrites.size(), alarms);
  for (const auto& rewrite : result.rewrites)
    if (rewrite.false_alarm())
      fmt::print("  {}: {}: {}\n", rewrite.what, to_text(rewrite.verdict), rewrite.why);
  if (!result.curve.empty()) fmt::print("\nA gain of 1 + d at one step is found\n");
  for (const auto& point : result.curve)
    fmt::print("  d = 2^{:<4} {:>3} of {} steps\n", point.exponent, point.found, point.of);
  fmt::print("\n{:.1f} s\n", result.seconds);
  for (const auto& line : missed) fmt::print("BELOW ITS FLOOR  {}\n", line);
  fmt::print("{}\n", missed.empty() ? "PASSED" : "FAILED");
}

nlohmann::json json_of(const Shares& s) {
  return {{"faults", s.faults},     {"runs", s.trials}, {"no_effect", s.no_effect},
          {"step", s.step},         {"side", s.side},   {"reason", s.reason},
          {"equal", s.same_values}, {"audit", s.audit}, {"held_out", s.held_out}};
}

void print_json(const SelfTestResult& result, const std::vector<std::string>& missed) {
  nlohmann::json json = {{"plumb", "self-test"},
                         {"version", 1},
                         {"passed", missed.empty()},
                         {"below_floor", missed},
                         {"all", json_of(shares_of(result.trials))},
                         {"seconds", result.seconds}};
  for (const auto& kind : kinds_of(result.trials))
    json["kinds"][kind.substr(0, kind.size() - 1)] = json_of(shares_of(result.trials, kind));
  for (const auto& t : result.trials)
    json["runs"].push_back(
        {{"fault", t.fault},
         {"step", t.step},
         {"parameter", t.parameter},
         {"visible_at", t.visible},
         {"side", t.side},
         {"effect", std::isfinite(t.effect) ? nlohmann::json(t.effect) : nlohmann::json()},
         {"counts", t.counts()},
         {"found_step", t.found_step},
         {"found_side", t.found_side},
         {"found_reason", t.found_reason},
         {"blamed_beside", t.others},
         {"same_values", t.same_values},
         {"audit_step", t.audit_step},
         {"audit_reason", t.audit_reason},
         {"held_out_reason", t.held_out_reason},
         {"held_out_same_values", t.held_out_same_values}});
  for (const auto& file : result.files)
    json["files"].push_back({{"fault", file.name},
                             {"right", file.right},
                             {"refused", file.refused},
                             {"reason", file.reason},
                             {"text", file.text}});
  size_t alarms = 0;
  for (const auto& rewrite : result.rewrites) alarms += rewrite.false_alarm();
  json["equivalent_runs"] = {{"runs", result.rewrites.size()}, {"false_alarms", alarms}};
  for (const auto& point : result.curve)
    json["curve"].push_back(
        {{"exponent", point.exponent}, {"found", point.found}, {"of", point.of}});
  fmt::print("{}\n", json.dump(1));
}

Result<int> run_self_test(const SelfTestOptions& options) {
  TRY_ASSIGN(auto model, options.model.empty() ? load_embedded() : load_model(options.model));
  const bool known = std::ranges::any_of(
      fault_catalogue(), [&](const Fault& fault) { return fault.name.starts_with(options.only); });
  if (!known)
    return fail(ErrorCode::Usage,
                fmt::format("--only '{}': no fault begins with it (plumb trace --list-faults)",
                            options.only));
  SelfTestSetup setup;
  setup.model = std::make_shared<const Model>(std::move(model));
  TRY_ASSIGN(const auto backend, options.machine.make_backend());
  setup.backend = backend.get();
  std::vector<std::unique_ptr<Backend>> levels;
  for (const char* level : {"scalar", "best"}) {
    TRY_ASSIGN(auto made, make_cpu_backend(level));
    levels.push_back(std::move(made));
  }
  levels.push_back(make_referee_backend());
  for (const auto& level : levels)
    setup.levels.emplace_back(fmt::format("{} {}", level->name(), level->level()), level.get());
  TRY_ASSIGN(setup.prompt, prompt_tokens(options, *setup.model));
  setup.decode = options.input.decode;
  setup.only = options.only;
  setup.most = options.most;
  setup.rewrites = options.rewrites;
  setup.files = options.only.empty();
  setup.threads = options.machine.thread_count();
  TRY_ASSIGN(auto floors, read_floors(std::string(embedded_floors())));
  floors.rewrites = std::min(floors.rewrites, options.rewrites);
  // Other models have other parts: how many faults can be put into them says nothing of plumb.
  if (!options.is_whole()) floors.faults = 0;
  TRY_ASSIGN(const auto result,
             self_test(setup, [](const std::string& what, size_t done, size_t all) {
               show_progress(what, done, all);
             }));
  end_progress();
  const auto missed = below_floor(result, floors, setup);
  if (options.json) print_json(result, missed);
  else print_text(result, options, missed);
  return missed.empty() ? kPass : kFail;
}

}  // namespace

void add_self_test(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<SelfTestOptions>();
  auto* app = program.add_subcommand(
      "self-test", "Put every known fault into runs of a model and see what is found");
  app->add_option("MODEL", options->model, "Model; without one, the small one that is built in");
  options->input.add_to(*app, 4);
  options->machine.add_to(*app);
  app->add_option("--only", options->only,
                  "Only faults whose name begins with this, such as 'rope.'");
  app->add_option("--most", options->most,
                  "At most so many faults, spread over the catalogue; 0: all")
      ->capture_default_str();
  app->add_option("--equivalent", options->rewrites, "Equivalent runs for false alarms; 0: none")
      ->capture_default_str();
  app->add_flag("--all", options->all, "Show every run in the text");
  app->add_flag("--json", options->json, "Print JSON (docs/self-test.md)");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run_self_test(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
