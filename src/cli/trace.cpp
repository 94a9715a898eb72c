// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "faults/catalogue.h"
#include "record/record.h"

namespace plumb::cli {
namespace {

struct TraceOptions {
  std::string model, output;
  std::vector<std::string> inject;
  StepChoice steps;
  InputOptions input;
  MachineOptions machine;
  KvType kv = SessionOptions{}.kv_cache;
  bool json = false, list_faults = false;
};

void print_faults() {
  for (const auto& fault : fault_catalogue())
    fmt::print("{:<25} {}  [{}]\n", fault.name, fault.summary, fault.steps);
}

Result<int> trace(const TraceOptions& options) {
  TRY_ASSIGN(const auto model, load_model(options.model));
  TRY_ASSIGN(const auto prompt, read_tokens(options.input, model));
  TRY_ASSIGN(const auto backend, options.machine.make_backend());
  Threads threads(options.machine.thread_count());
  const FedLength fed{prompt.size() + options.input.decode, prompt.size()};
  Plan plan = make_plan(model, fed.all);
  std::string injected;
  for (const auto& text : options.inject) {
    TRY_ASSIGN(const auto what, inject(text, model, plan, fed));
    fmt::print(stderr, "injected    {}\n", what);
    injected += (injected.empty() ? "" : "; ") + text;
  }
  const RunSetup setup{model, plan, *backend, threads, options.kv};
  // The tokens of a greedy run are known only afterwards: it runs once as users run it, and once
  // more, recorded, with the same tokens. Both must give the same bits.
  TRY_ASSIGN(const auto plain, run_greedily(setup, prompt, options.input.decode));
  TRY_ASSIGN(auto layout, plan_trace(setup, plain.tokens, plain.prompt, options.steps, injected));
  const bool statistics = options.steps.depth == Depth::Statistics;
  const auto steps = static_cast<size_t>(std::ranges::count_if(
      plan.steps, [&](const Step& step) { return options.steps.takes(step); }));
  TRY_ASSIGN(auto writer, TraceWriter::to_file(options.output, std::move(layout)));
  TRY_ASSIGN(const auto logits, record(setup, plain.tokens, plain.prompt, *writer));
  TRY(check_unchanged(plain, logits));
  TRY(writer->finish());
  if (options.json) {
    nlohmann::ordered_json out = {
        {"plumb", "trace"},           {"version", 1},
        {"file", options.output},     {"tokens", plain.tokens},
        {"prompt", plain.prompt},     {"steps", steps},
        {"of", plan.steps.size()},    {"bytes", writer->size_bytes()},
        {"injected", options.inject}, {"depth", statistics ? "stats" : "values"}};
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print(
        "{}: {}{} of {} steps × {} positions ({} prompt + {} decoded), {:.1f} MB; the recorded run "
        "gave the same bits as the plain one\n",
        options.output, statistics ? "statistics of " : "", steps, plan.steps.size(),
        plain.tokens.size(), plain.prompt, plain.tokens.size() - plain.prompt,
        static_cast<double>(writer->size_bytes()) / 1e6);
  }
  return kPass;
}

}  // namespace

void add_trace(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<TraceOptions>();
  auto* app = program.add_subcommand("trace", "Run and record every step");
  auto* model = app->add_option("MODEL", options->model,
                                "Model: a GGUF or APR file, or a folder with safetensors");
  auto* output = app->add_option("-o,--output", options->output, "Trace file to write");
  options->input.add_to(*app, 8);
  options->machine.add_to(*app);
  add_kv_option(*app, options->kv);
  app->add_option(
      "--steps", options->steps.patterns,
      "Steps to record, such as 'layer.0.*'; all but attn.scores and attn.weights if not given");
  app->add_option_function<std::string>(
         "--depth",
         [options](const std::string& depth) {
           options->steps.depth = depth == "stats" ? Depth::Statistics : Depth::Values;
         },
         "What to record of a step: values, or stats: eight figures and a sketch of each row, "
         "which "
         "screen a run but judge nothing")
      ->check(CLI::IsMember({"values", "stats"}))
      ->default_str("values");
  app->add_option("--inject", options->inject,
                  "Put a fault into the run: NAME@STEP or NAME@STEP:PARAMETER");
  app->add_flag("--list-faults", options->list_faults, "List the faults that --inject knows");
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, model, output, &chosen] {
    if (!options->list_faults && (model->empty() || output->empty()))
      throw CLI::RequiredError("MODEL and -o FILE");
    chosen = [options]() -> int {
      if (options->list_faults) {
        print_faults();
        return kPass;
      }
      const auto code = trace(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
