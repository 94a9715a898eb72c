// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "cli/foreign.h"
#include "trace/trace_writer.h"

namespace plumb::cli {
namespace {

using nlohmann::ordered_json;

struct ImportCommand {
  std::string dump, output, model;
  NamesOptions names;
  bool json = false;
};

// What is no step is kept under its own name, told apart by pass and occurrence where that repeats;
// what the table knows to be none (masks, views) is not.
std::vector<SafetensorsTensor> other_tensors(const Dump& dump, const Imported& imported) {
  std::vector<SafetensorsTensor> out;
  std::set<std::string> taken = {"tokens", "positions"};
  for (size_t i = 0; i < dump.tensors.size(); ++i) {
    const auto& tensor = dump.tensors[i];
    const auto& mapped = imported.names[i];
    if (!mapped.step.empty() || mapped.skipped || tensor.view.bytes.empty()) continue;
    std::string name = tensor.name.empty() ? "tensor" : tensor.name;
    if (is_step_name(name) || taken.contains(name) || name.starts_with("positions:"))
      name = "dump:" + name;
    if (taken.contains(name) && tensor.occurrence > 0)
      name += fmt::format("#{}", tensor.occurrence);
    if (taken.contains(name)) name += fmt::format("@{}", tensor.pass);
    for (size_t n = 2; taken.contains(name); ++n) name += fmt::format("~{}", n);
    taken.insert(name);
    out.push_back({std::move(name), tensor.view});
  }
  return out;
}

ordered_json to_json(const ImportCommand& options, const Dump& dump, const Imported& imported,
                     size_t others) {
  ordered_json out = {{"plumb", "import"},
                      {"version", 1},
                      {"file", options.output},
                      {"kind", dump.kind},
                      {"table", imported.table},
                      {"tokens", imported.trace.tokens},
                      {"prompt", imported.trace.prompt},
                      {"steps", imported.trace.steps.size()},
                      {"others", others},
                      {"notes", imported.notes}};
  for (const auto& name : imported.names)
    out["names"].push_back(
        {{"name", name.name}, {"shape", name.shape}, {"step", name.step}, {"reason", name.reason}});
  return out;
}

Result<int> run_import(const ImportCommand& options) {
  TRY_ASSIGN(const auto kind, kind_of(options.dump));
  if (kind == InputKind::Model)
    return std::unexpected(model_in_place_of_run(options.dump, "a dump of a run is expected"));
  if (kind == InputKind::Trace)
    return fail(ErrorCode::Usage,
                fmt::format("{}: it is a trace of plumb already: every command takes it as it is",
                            options.dump));
  std::optional<Model> model;
  std::optional<Plan> plan;
  if (!options.model.empty()) {
    TRY_ASSIGN(model, load_model(options.model));
    plan = make_plan(*model);
  }
  TRY_ASSIGN(const auto dump, open_dump(options.dump));
  if (dump.tensors.empty()) {
    for (const auto& note : dump.notes) fmt::print(stderr, "note        {}\n", note);
    return fail(ErrorCode::Unsupported,
                fmt::format("{}: {} without a tensor that has values: there is nothing to import",
                            options.dump, dump.kind));
  }
  TRY_ASSIGN(const auto how, options.names.import_options());
  TRY_ASSIGN(const auto imported,
             import_dump(dump, model ? &*model : nullptr, plan ? &*plan : nullptr, how));
  const auto others = other_tensors(dump, imported);
  TRY(write_trace(options.output, imported.trace, others));
  if (options.json) {
    fmt::print("{}\n", to_json(options, dump, imported, others.size())
                           .dump(2, ' ', false, ordered_json::error_handler_t::replace));
    return kPass;
  }
  fmt::print("{}: {} steps of {} tensors of {}{}, {} others kept by name\n", options.output,
             imported.trace.steps.size(), dump.tensors.size(), dump.kind,
             imported.table.empty() ? "" : fmt::format(" (table {})", imported.table),
             others.size());
  fmt::print("tokens      {}\n",
             imported.trace.tokens.empty()
                 ? std::string("unknown")
                 : fmt::format("{} prompt + {} decoded", imported.trace.prompt,
                               imported.trace.tokens.size() - imported.trace.prompt));
  for (const auto& note : imported.notes) fmt::print("note        {}\n", note);
  size_t left = 0;
  for (const auto& name : imported.names)
    left += name.step.empty() && !name.skipped && model ? 1 : 0;
  if (left > 0)
    fmt::print("left out    {} tensors: plumb names {} --model {}\n", left, options.dump,
               options.model);
  return kPass;
}

}  // namespace

void add_import(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<ImportCommand>();
  auto* app = program.add_subcommand("import", "Turn another engine's dump into a trace");
  app->add_option("DUMP", options->dump,
                  "File or folder; its kind is found by content (docs/import.md)")
      ->required();
  app->add_option("-o,--output", options->output, "Trace file to write")->required();
  app->add_option(
      "--model", options->model,
      "Model that was run: its steps get the values; without it names are kept as they are");
  options->names.add_to(*app, true);
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run_import(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
