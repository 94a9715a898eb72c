// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "cli/foreign.h"
#include "cli/prompts.h"
#include "cli/sides.h"
#include "faults/catalogue.h"
#include "outcome/run_prompts.h"

namespace plumb::cli {
namespace {

struct CompareOptions {
  std::string baseline, candidate;
  std::vector<std::string> models, inject;
  InputOptions input;
  std::string prompts;  // a file of them
  BootstrapOptions statistics;
  bool has_seed = false;
  std::vector<Token> chosen;  // of the prompts: the one that is judged step by step
  MachineOptions machine;
  std::string candidate_backend, candidate_level;
  KvType kv = SessionOptions{}.kv_cache;
  std::optional<KvType> candidate_kv;
  StepChoice steps;
  NamesOptions names;
  ReportOptions report;
};

// A side before it is a trace.
struct Source {
  std::string role, path;
  bool is_trace = false;
  std::optional<Trace> trace;
  std::shared_ptr<const Model> model;
  Plan plan;      // of the file
  Plan executed;  // with injected faults
  std::string injected;
  std::unique_ptr<Backend> backend;
  KvType kv_cache = KvType::F32;
  RunSetup setup(Threads& threads) const { return {*model, executed, *backend, threads, kv_cache}; }
};

Result<std::shared_ptr<const Model>> load_shared(const std::string& path) {
  TRY_ASSIGN(auto model, load_model(path));
  return std::make_shared<const Model>(std::move(model));
}

// The model that a run belongs to: as given, or the model on the other side, unless a trace says
// that it was made with another file. A trace may do without.
Result<std::string> model_of_run(const CompareOptions& options, bool second, InputKind kind) {
  if (!options.models.empty()) return second ? options.models.back() : options.models.front();
  const auto& own = second ? options.candidate : options.baseline;
  const auto& other = second ? options.baseline : options.candidate;
  TRY_ASSIGN(const auto other_kind, kind_of(other));
  if (other_kind != InputKind::Model) return std::string();
  if (kind == InputKind::Dump) return other;
  TRY_ASSIGN(const auto trace, open_trace(own));
  const auto sha256 = trace.provenance.model.find("sha256");
  if (sha256 == trace.provenance.model.end()) return other;
  TRY_ASSIGN(const auto model, load_model(other));
  return sha256->second == model.sha256 ? other : std::string();
}

Result<Source> open_source(const CompareOptions& options, bool second) {
  Source source;
  source.role = second ? "candidate" : "baseline";
  source.path = second ? options.candidate : options.baseline;
  TRY_ASSIGN(const auto kind, kind_of(source.path));
  source.is_trace = kind != InputKind::Model;
  if (source.is_trace) {
    TRY_ASSIGN(const auto model, model_of_run(options, second, kind));
    if (!model.empty()) {
      TRY_ASSIGN(source.model, load_shared(model));
    }
    TRY_ASSIGN(source.trace, open_run(source.path, source.model.get(), options.names));
  } else {
    auto model = load_shared(source.path);
    if (!model) {
      const auto other = kind_of(second ? options.baseline : options.candidate);
      if (model.error().code == ErrorCode::Corrupt && other && *other == InputKind::Model)
        model.error().message += fmt::format("; 'plumb inspect {} {}' compares the files alone",
                                             options.baseline, options.candidate);
      return std::unexpected(std::move(model).error());
    }
    source.model = std::move(*model);
    MachineOptions machine = options.machine;
    if (second && !options.candidate_backend.empty()) machine.backend = options.candidate_backend;
    if (second && !options.candidate_level.empty()) machine.level = options.candidate_level;
    TRY_ASSIGN(source.backend, machine.make_backend());
    source.kv_cache = second ? options.candidate_kv.value_or(options.kv) : options.kv;
  }
  return source;
}

// What two models are fed where the user says nothing: a text of mixed kinds, or ids spread over
// the smaller vocabulary where the baseline has no tokenizer.
Result<std::vector<Token>> prompt_of(const CompareOptions& options, const Source& source,
                                     const Source& other) {
  if (!options.chosen.empty()) return options.chosen;
  const auto& model = *source.model;
  const size_t vocabulary = std::min(model.config.vocabulary, other.model->config.vocabulary);
  if (options.input.given()) return read_tokens(options.input, model);
  return default_tokens(model,
                        "The 7 quick brown foxes (all of them) jump over lazy dogs: x = 3.14;", 24,
                        vocabulary);
}

// How many tokens will be fed at most: some scalings of RoPE depend on it.
Result<FedLength> count_tokens(const CompareOptions& options, const Source& a, const Source& b) {
  for (const auto* source : {&a, &b})
    if (source->is_trace)
      return FedLength{source->trace->tokens.size(), std::max<size_t>(source->trace->prompt, 1)};
  TRY_ASSIGN(const auto prompt, prompt_of(options, a, b));
  return FedLength{prompt.size() + options.input.decode, prompt.size()};
}

Result<void> plan_source(const CompareOptions& options, FedLength fed, Source& source) {
  if (source.role == "candidate" && source.is_trace && !options.inject.empty())
    return fail(ErrorCode::Usage, "--inject needs a model as candidate: a trace was run already");
  if (!source.model) return {};
  source.plan = make_plan(*source.model, fed.all);
  source.executed = source.plan;
  source.injected.clear();
  if (source.role != "candidate") return {};
  for (const auto& text : options.inject) {
    TRY(inject(text, *source.model, source.executed, fed));
    source.injected += (source.injected.empty() ? "" : "; ") + text;
  }
  return {};
}

struct Fed {
  std::vector<Token> tokens;
  size_t prompt = 0;
};

// The tokens that both sides are fed: those of a trace, or the prompt and what the baseline decodes
// from it.
Result<Fed> choose_tokens(const CompareOptions& options, Source& a, Source& b, Threads& threads) {
  for (const auto* source : {&a, &b})
    if (source->is_trace) {
      if (options.input.given() && options.names.tokens.empty())
        return fail(ErrorCode::Usage,
                    "a trace brings its own tokens: leave out -p, --prompt-file and --tokens");
      if (source->trace->tokens.empty() && !(a.is_trace && b.is_trace))
        return fail(
            ErrorCode::NotComparable,
            fmt::format("not comparable: {} does not say which tokens were fed", source->path));
      // A trace may have no prefill at all; a run has one of at least a token.
      return Fed{source->trace->tokens, std::max<size_t>(source->trace->prompt, 1)};
    }
  TRY_ASSIGN(const auto prompt, prompt_of(options, a, b));
  if (!options.input.has_tokens && a.model->tokenizer && b.model->tokenizer &&
      a.model->sha256 != b.model->sha256) {
    TRY_ASSIGN(const auto other, prompt_of(options, b, a));
    if (other != prompt) {
      size_t first = 0;
      while (first < std::min(other.size(), prompt.size()) && other[first] == prompt[first])
        ++first;
      return fail(
          ErrorCode::NotComparable,
          fmt::format("not comparable: the two tokenizers cut the prompt differently, from token "
                      "{} on ({} against {} tokens); compare on the same ids with --tokens",
                      first, prompt.size(), other.size()));
    }
  }
  TRY_ASSIGN(auto run, run_greedily(a.setup(threads), prompt, options.input.decode));
  return Fed{std::move(run.tokens), run.prompt};
}

Result<void> run_side(const CompareOptions& options, Depth depth, Source& source, const Fed& fed,
                      Threads& threads) {
  if (source.is_trace) return {};
  const auto setup = source.setup(threads);
  StepChoice steps = options.steps;
  steps.depth = depth;
  TRY_ASSIGN(auto layout, plan_trace(setup, fed.tokens, fed.prompt, steps, source.injected));
  TRY_ASSIGN(auto writer, TraceWriter::to_memory(side_label(source.path), std::move(layout)));
  TRY_ASSIGN(const auto logits, record(setup, fed.tokens, fed.prompt, *writer));
  // The same run without an observer must give the same bits.
  TRY_ASSIGN(
      auto session,
      source.backend->open(*source.model, source.executed,
                           {.capacity = fed.tokens.size(), .kv_cache = source.kv_cache}, threads));
  PlainRun plain{.tokens = fed.tokens, .prompt = fed.prompt, .logits = {}};
  TRY_ASSIGN(auto first, session->forward(std::span(fed.tokens).first(fed.prompt),
                                          Outputs::LastPosition, nullptr));
  plain.logits.push_back(std::move(first));
  for (size_t i = fed.prompt; i < fed.tokens.size(); ++i) {
    TRY_ASSIGN(auto next, session->forward({&fed.tokens[i], 1}, Outputs::LastPosition, nullptr));
    plain.logits.push_back(std::move(next));
  }
  TRY(check_unchanged(plain, logits));
  TRY_ASSIGN(source.trace, writer->finish_in_memory());
  return {};
}

// Every embedding larger by the factor: one unit in the last place.
Plan with_noise(Plan plan, double factor = 1 + 0x1p-23) {
  plan.steps.front().gain = factor;
  return plan;
}

// Another level of the same backend, whose sums have another order; null: there is none, or it
// would take more than about a second.
std::unique_ptr<Backend> other_level(const Source& source, size_t positions) {
  constexpr size_t kMostProducts = 500'000'000;
  size_t weights = 0;
  for (const auto& [name, weight] : source.model->weights) weights += weight->count();
  if (source.backend->name() != "cpu" || weights > kMostProducts / positions) return {};
  for (const auto& level : cpu_levels())
    if (level != source.backend->level())
      if (auto backend = make_cpu_backend(level)) return std::move(*backend);
  return {};
}

void widen(NoiseFloor& floor, std::span<const float> base, std::span<const float> other,
           size_t width) {
  ++floor.runs;
  for (size_t row = 0; row < floor.ties.size(); ++row) {
    double error = 0;
    double size = 0;
    double most = 0;
    for (size_t i = row * width; i < (row + 1) * width; ++i) {
      const double d = static_cast<double>(other[i]) - static_cast<double>(base[i]);
      error += d * d;
      size += static_cast<double>(base[i]) * static_cast<double>(base[i]);
      most = std::max(most, std::fabs(d));
    }
    floor.logits = std::max(floor.logits, size > 0 ? std::sqrt(error / size) : 0);
    floor.ties[row] =
        std::max(floor.ties[row], 2 * most);  // two logits may move against each other
  }
}

// Runs that nobody could call wrong: the prefill in two parts, every embedding one unit in the last
// place larger, and smaller, and sums in another order. What they change is what no verdict about
// the outcome may be built on.
Result<NoiseFloor> measure_floor(const Source& source, const Fed& fed, Threads& threads) {
  const Plan larger = with_noise(source.plan);
  const Plan smaller = with_noise(source.plan, 1 - 0x1p-23);
  const auto level = other_level(source, fed.tokens.size());
  const auto setup = [&](const Plan& plan, const Backend& backend) {
    return RunSetup{*source.model, plan, backend, threads, source.kv_cache};
  };
  const auto plain = setup(source.plan, *source.backend);
  TRY_ASSIGN(const auto base, run_logits(plain, fed.tokens, fed.prompt, 0));
  std::vector<std::pair<RunSetup, size_t>> equivalent = {{plain, (fed.prompt + 1) / 2},
                                                         {setup(larger, *source.backend), 0},
                                                         {setup(smaller, *source.backend), 0}};
  if (level) equivalent.emplace_back(setup(source.plan, *level), 0);
  NoiseFloor floor;
  floor.ties.resize(fed.tokens.size());
  for (const auto& [run, part] : equivalent) {
    TRY_ASSIGN(const auto other, run_logits(run, fed.tokens, fed.prompt, part));
    widen(floor, base, other, source.model->config.vocabulary);
  }
  return floor;
}

// --prompts needs what a trace cannot give: a run of each prompt.
Result<void> check_prompt_options(const CompareOptions& options, const Source& a, const Source& b) {
  if (options.prompts.empty()) {
    if (options.has_seed) return fail(ErrorCode::Usage, "--seed needs --prompts");
    return {};
  }
  for (const auto* source : {&a, &b})
    if (source->is_trace)
      return fail(ErrorCode::Usage,
                  fmt::format("--prompts needs two models: {} is a run that is over and has one "
                              "prompt; leave --prompts out, or give the model",
                              source->path));
  if (options.input.given())
    return fail(ErrorCode::Usage,
                "--prompts is the input: leave out -p, --prompt-file and --tokens");
  if (a.model->config.vocabulary != b.model->config.vocabulary)
    return fail(
        ErrorCode::NotComparable,
        fmt::format("not comparable: {} has a vocabulary of {} tokens, {} of {}; "
                    "probabilities of different tokens cannot be compared",
                    a.path, a.model->config.vocabulary, b.path, b.model->config.vocabulary));
  return {};
}

// Both models on every prompt. The floor is measured where something depends on it: until a prompt
// shows a difference above it, and where a best token changed.
Result<SetOutcome> run_set(const CompareOptions& options, Source& a, Source& b, Threads& threads) {
  TRY_ASSIGN(const auto prompts,
             read_prompts(options.prompts, *a.model, *b.model, options.input.decode));
  std::vector<PromptOutcome> outcomes;
  bool chosen = false;
  for (const auto& prompt : prompts) {
    show_progress("running prompt", outcomes.size(), prompts.size());
    const FedLength length{prompt.tokens.size() + options.input.decode, prompt.tokens.size()};
    TRY(plan_source(options, length, a));
    TRY(plan_source(options, length, b));
    TRY_ASSIGN(auto outcome,
               run_prompt(a.setup(threads), b.setup(threads), prompt.tokens, options.input.decode));
    outcome.line = prompt.line;
    if ((!chosen && !outcome.identical) || outcome.changes() > 0) {
      const Plan noisy = with_noise(a.plan);
      const RunSetup noise{*a.model, noisy, *a.backend, threads, a.kv_cache};
      TRY(measure_prompt_floor(a.setup(threads), noise, outcome));
    }
    chosen = chosen || outcome.above_floor();
    outcomes.push_back(std::move(outcome));
  }
  auto set = summarize(std::move(outcomes), options.input.decode, options.statistics);
  set.file = options.prompts;
  return set;
}

Result<int> run_compare(CompareOptions options) {
  // Of a dump that does not say its tokens, --tokens does.
  for (const auto* path : {&options.baseline, &options.candidate}) {
    TRY_ASSIGN(const auto kind, kind_of(*path));
    if (kind == InputKind::Dump && options.input.has_tokens)
      options.names.tokens = options.input.tokens;
  }
  TRY_ASSIGN(auto a, open_source(options, false));
  TRY_ASSIGN(auto b, open_source(options, true));
  Threads threads(options.machine.thread_count());
  TRY(check_prompt_options(options, a, b));
  std::optional<SetOutcome> set;
  if (!options.prompts.empty()) {
    TRY_ASSIGN(set, run_set(options, a, b, threads));
    const auto& prompt = set->prompts[set->chosen];
    options.chosen.assign(prompt.tokens.begin(),
                          prompt.tokens.begin() + static_cast<ptrdiff_t>(prompt.prompt));
  }
  TRY_ASSIGN(const auto length, count_tokens(options, a, b));
  TRY(plan_source(options, length, a));
  TRY(plan_source(options, length, b));
  TRY_ASSIGN(const auto fed, choose_tokens(options, a, b, threads));
  if (!a.is_trace || !b.is_trace) show_progress("running", 0, 2);
  // Beside a trace without values a run needs none either, and no floor of its logits.
  const bool screening =
      (a.trace && a.trace->has_only_statistics()) || (b.trace && b.trace->has_only_statistics());
  const auto depth = screening ? Depth::Statistics : Depth::Values;
  TRY(run_side(options, depth, a, fed, threads));
  TRY(run_side(options, depth, b, fed, threads));
  std::optional<NoiseFloor> floor;
  auto* source = !a.is_trace ? &a : !b.is_trace ? &b : nullptr;
  if (source != nullptr && !screening) {
    TRY_ASSIGN(floor, measure_floor(*source, fed, threads));
  }
  Side baseline{a.role, side_label(a.path), a.model, std::move(a.plan), std::move(*a.trace)};
  Side candidate{b.role, side_label(b.path), b.model, std::move(b.plan), std::move(*b.trace)};
  auto result =
      compare(std::move(baseline), std::move(candidate), floor, threads,
              [](size_t done, size_t all) { show_progress("replaying step", done, all); });
  if (!options.report.no_confirm) confirm_findings(result, threads);
  result.outcome = std::move(set);
  return report(result, options.report);
}

}  // namespace

void add_compare(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<CompareOptions>();
  auto* app = program.add_subcommand(
      "compare", "Do two runs compute the same model? A and B: a model or a trace each");
  app->add_option(
         "A", options->baseline,
         "Baseline: a model (GGUF, APR, folder with safetensors), a trace or another engine's dump")
      ->required();
  app->add_option("B", options->candidate, "Candidate: the same")->required();
  app->add_option("--model", options->models,
                  "Model file that traces belong to; given twice: of A, then of B")
      ->expected(1, 2);
  options->names.add_to(*app, false);
  options->input.add_to(*app, 8);
  app->add_option("--prompts", options->prompts,
                  "Two models on many prompts, one per line of this file: statistics of the "
                  "outcome (docs/outcome.md)");
  app->add_option_function<uint64_t>(
         "--seed",
         [options](uint64_t seed) {
           options->statistics.seed = seed;
           options->has_seed = true;
         },
         "Seed of the resampling that --prompts makes intervals with")
      ->default_str("1");
  options->machine.add_to(*app);
  app->add_option("--candidate-backend", options->candidate_backend, "Another backend for B")
      ->check(CLI::IsMember({"cpu", "referee"}));
  app->add_option("--candidate-cpu", options->candidate_level, "Another CPU level for B");
  add_kv_option(*app, options->kv);
  add_candidate_kv_option(*app, options->candidate_kv);
  app->add_option("--steps", options->steps.patterns,
                  "Steps to record of models, such as 'layer.0.*'");
  app->add_option(
      "--inject", options->inject,
      "Put a fault into B, a model: NAME@STEP or NAME@STEP:PARAMETER (plumb trace --list-faults)");
  options->report.add_to(*app);
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = run_compare(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
