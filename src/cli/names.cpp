// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "backends/referee/referee_backend.h"
#include "cli/foreign.h"
#include "names/propose.h"
#include "record/record.h"

namespace plumb::cli {
namespace {

using nlohmann::ordered_json;

struct NamesCommand {
  std::string dump, model;
  NamesOptions names;
  bool json = false, all = false, propose = true;
  size_t threads = 0;
};

// The referee's run of the same tokens, for proposals by value; none if the tokens are not known.
Result<std::optional<Trace>> referee_run(const NamesCommand& options, const Model& model,
                                         const Imported& imported) {
  const auto& trace = imported.trace;
  if (!options.propose || trace.tokens.empty()) return std::nullopt;
  Threads threads(options.threads == 0 ? available_processors() : options.threads);
  const auto backend = make_referee_backend();
  const Plan plan = make_plan(model, trace.tokens.size());
  const RunSetup setup{model, plan, *backend, threads};
  TRY_ASSIGN(auto layout, plan_trace(setup, trace.tokens, trace.prompt, {}, ""));
  TRY_ASSIGN(auto writer, TraceWriter::to_memory("referee", std::move(layout)));
  TRY(record(setup, trace.tokens, trace.prompt, *writer));
  TRY_ASSIGN(auto run, writer->finish_in_memory());
  return run;
}

ordered_json to_json(const NamesCommand& options, const Dump& dump, const Imported& imported,
                     const std::vector<Proposal>& proposals,
                     const std::vector<std::string>& missing) {
  ordered_json out = {{"plumb", "names"},
                      {"version", 1},
                      {"file", options.dump},
                      {"kind", dump.kind},
                      {"table", imported.table}};
  for (const auto& name : imported.names)
    out["names"].push_back(
        {{"name", name.name}, {"shape", name.shape}, {"step", name.step}, {"reason", name.reason}});
  for (const auto& p : proposals)
    out["proposals"].push_back({{"name", dump.tensors[p.tensor].name},
                                {"step", p.step},
                                {"distance", p.distance},
                                {"why", p.why}});
  out["steps_without_values"] = missing;
  out["notes"] = imported.notes;
  return out;
}

void print_text(const NamesCommand& options, const Dump& dump, const Imported& imported,
                const std::vector<Proposal>& proposals, const std::vector<std::string>& missing,
                size_t steps) {
  fmt::print("{}, {}\n", dump.kind,
             imported.table.empty() ? "no table knows its names" : "table " + imported.table);
  size_t skipped = 0;
  size_t mapped = 0;
  for (const auto& name : imported.names) {
    mapped += name.step.empty() ? 0 : 1;
    if (name.skipped && !options.all) {
      ++skipped;
      continue;
    }
    if (!name.step.empty())
      fmt::print("  {:<40} {} → {}{}\n", name.name, name.shape, name.step,
                 name.reason.empty() ? "" : " (" + name.reason + ")");
    else fmt::print("  {:<40} {} left out: {}\n", name.name, name.shape, name.reason);
  }
  if (skipped > 0)
    fmt::print("  {} more that the table knows and that are no steps (--all shows them)\n",
               skipped);
  for (const auto& note : imported.notes) fmt::print("note        {}\n", note);
  fmt::print("mapped      {} of {} tensors; {} of the model's {} steps have values\n", mapped,
             imported.names.size(), steps - missing.size(), steps);
  if (!missing.empty()) {
    std::string some;
    for (size_t i = 0; i < std::min(missing.size(), size_t{6}); ++i)
      some += (i > 0 ? ", " : "") + missing[i];
    fmt::print("without     {}{}\n", some, missing.size() > 6 ? ", …" : "");
  }
  if (proposals.empty()) return;
  fmt::print("proposed rows for a table of your own (--names FILE):\n");
  for (const auto& p : proposals)
    fmt::print("  - {{name: \"{}\", step: {}}}  # {}\n", dump.tensors[p.tensor].name, p.step,
               p.why);
}

Result<int> run_names(const NamesCommand& options) {
  TRY_ASSIGN(const auto kind, kind_of(options.dump));
  if (kind != InputKind::Dump)
    return fail(ErrorCode::Usage,
                fmt::format("{}: it is a {}; its names need no table", options.dump,
                            kind == InputKind::Model ? "model" : "trace of plumb"));
  TRY_ASSIGN(const auto model, load_model(options.model));
  const Plan plan = make_plan(model);
  TRY_ASSIGN(const auto dump, open_dump(options.dump));
  TRY_ASSIGN(const auto how, options.names.import_options());
  TRY_ASSIGN(const auto imported, import_dump(dump, &model, &plan, how));
  TRY_ASSIGN(const auto run, referee_run(options, model, imported));
  TRY_ASSIGN(const auto proposals, propose_names(dump, imported, plan, run ? &*run : nullptr));
  std::vector<std::string> missing;
  size_t steps = 0;
  for (const auto& step : plan.steps) {
    if (is_on_request(step.op)) continue;
    ++steps;
    if (imported.trace.find(step.name) == nullptr) missing.push_back(step.name);
  }
  if (options.json)
    fmt::print("{}\n", to_json(options, dump, imported, proposals, missing)
                           .dump(2, ' ', false, ordered_json::error_handler_t::replace));
  else print_text(options, dump, imported, proposals, missing, steps);
  return kPass;
}

}  // namespace

void add_names(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<NamesCommand>();
  auto* app = program.add_subcommand(
      "names", "Which steps the names of another engine's dump are, and why some are none");
  app->add_option("DUMP", options->dump, "File or folder of another engine")->required();
  app->add_option("--model", options->model, "Model that was run")->required();
  options->names.add_to(*app, true);
  app->add_flag("!--no-propose", options->propose,
                "Do not run the referee to propose rows by value");
  app->add_option("--threads", options->threads, "Threads; 0: all processors")
      ->capture_default_str();
  app->add_flag("--all", options->all, "Show also what is known to be no step");
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run_names(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
