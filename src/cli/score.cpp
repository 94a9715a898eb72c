// SPDX-License-Identifier: Apache-2.0
#include "score/score.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "backends/session_memory.h"
#include "cli/commands.h"

namespace plumb::cli {
namespace {

struct ScoreCommand {
  std::string path, text_file, against, against_backend;
  size_t context = 0, chunks = 0;
  std::vector<size_t> top_k = {5, 10};
  MachineOptions machine;
  KvType kv = SessionOptions{}.kv_cache;
  bool json = false;
  const CLI::App* app = nullptr;  // outlives the run of the command
  bool given(const std::string& option) const { return app->count(option) > 0; }
};

// A model that will run, or a trace of one that did.
struct Side {
  std::string path;
  std::optional<Trace> trace;
  std::optional<Model> model;
  std::unique_ptr<Backend> backend;
  Plan plan;
};

struct Input {
  std::vector<Sequence> sequences;
  size_t context = 0;  // of the chunks; 0: a trace
  size_t longest() const {
    size_t most = 0;
    for (const auto& sequence : sequences) most = std::max(most, sequence.tokens.size());
    return most;
  }
};

Result<Side> open_side(const ScoreCommand& command, const std::string& path,
                       const std::string& backend) {
  Side side;
  side.path = path;
  if (is_plumb_trace(path)) {
    TRY_ASSIGN(side.trace, open_trace(path));
    return side;
  }
  TRY_ASSIGN(side.model, load_model(path));
  auto machine = command.machine;
  if (!backend.empty()) machine.backend = backend;
  TRY_ASSIGN(side.backend, machine.make_backend());
  return side;
}

Result<Input> input_of_traces(const ScoreCommand& command, const Side& a, const Side* b) {
  for (const auto& [given, option] : {std::pair(!command.text_file.empty(), "TEXT-FILE"),
                                      std::pair(command.given("--context"), "--context"),
                                      std::pair(command.given("--chunks"), "--chunks")})
    if (given)
      return fail(ErrorCode::Usage,
                  fmt::format("a trace brings its own tokens: leave out {}", option));
  const Trace& trace = a.trace ? *a.trace : *b->trace;
  const Trace* other = a.trace && b != nullptr && b->trace ? &*b->trace : nullptr;
  for (const auto* each : {&trace, other})
    if (each != nullptr) TRY(LogitReader::of_trace(*each));
  Input input;
  TRY_ASSIGN(auto sequence, sequence_of(trace, other));
  input.sequences.push_back(std::move(sequence));
  return input;
}

Result<std::vector<Token>> tokens_of(const Model& model, const std::string& text) {
  if (!model.tokenizer)
    return fail(ErrorCode::Unsupported, fmt::format("{}: cannot turn text into tokens: {}",
                                                    model.path, model.tokenizer_missing));
  return model.tokenizer->encode(text, true, false);
}

Result<Input> input_of_text(const ScoreCommand& command, const Model& a, const Model* b) {
  if (command.text_file.empty())
    return fail(ErrorCode::Usage, "no text: give MODEL and TEXT-FILE (- is standard input)");
  TRY_ASSIGN(auto text, read_text_file(command.text_file));
  // llama-perplexity leaves out the newline at the end, and standard input has lost it already.
  if (command.text_file != "-" && text.ends_with('\n')) text.pop_back();
  TRY_ASSIGN(const auto tokens, tokens_of(a, text));
  size_t own = a.config.context;
  if (b != nullptr) {
    TRY_ASSIGN(const auto others, tokens_of(*b, text));
    if (tokens != others)
      return fail(ErrorCode::NotComparable,
                  fmt::format("{} and {} cut the text into different tokens ({} and {}); "
                              "probabilities of different tokens cannot be compared",
                              a.path, b->path, tokens.size(), others.size()));
    own = std::min(own, b->config.context);
  }
  Input input;
  input.context = command.given("--context") ? command.context : std::min<size_t>(512, own);
  if (input.context > own)
    return fail(ErrorCode::Usage,
                fmt::format("--context {} is more than the model's context of {} tokens",
                            input.context, own));
  Chunking chunking{input.context, command.chunks, std::nullopt};
  if (a.tokenizer->adds_bos()) chunking.bos = a.tokenizer->bos();
  TRY_ASSIGN(input.sequences, cut_into_chunks(tokens, chunking));
  return input;
}

Result<Input> read_input(const ScoreCommand& command, const Side& a, const Side* b) {
  if (a.trace || (b != nullptr && b->trace)) return input_of_traces(command, a, b);
  if (b != nullptr) TRY(check_same_vocabulary(*a.model, *b->model));
  return input_of_text(command, *a.model, b != nullptr ? &*b->model : nullptr);
}

// What logits the side gives. `available` is what memory is free, and less what the side takes when
// this returns.
Result<LogitReader> reader_of(const ScoreCommand& command, Side& side, size_t tokens,
                              Threads& threads, uint64_t& available) {
  if (side.trace) return LogitReader::of_trace(*side.trace);
  const auto& model = *side.model;
  if (tokens > model.config.context)
    return fail(ErrorCode::NotComparable,
                fmt::format("{}: the trace has {} tokens, the model's context is {}", side.path,
                            tokens, model.config.context));
  side.plan = make_plan(model, tokens);
  TRY_ASSIGN(const auto use,
             check_memory(*side.backend, model, side.plan, {tokens, command.kv}, available));
  if (available != kMemoryUnknown) available -= use.needed();
  return LogitReader(ScoredModel{model, side.plan, *side.backend, threads, command.kv});
}

nlohmann::ordered_json json_of(const Side& side, std::optional<Estimate> perplexity) {
  nlohmann::ordered_json out = {{"file", side.path}, {"kind", side.trace ? "trace" : "model"}};
  if (side.model) {
    out["sha256"] = side.model->sha256;
    out["name"] = side.model->config.name;
    out["backend"] = side.backend->name();
    out["level"] = side.backend->level();
  }
  if (!perplexity) return out;
  out["perplexity"] = perplexity->value;
  out["perplexity_error"] = perplexity->error;
  return out;
}

nlohmann::ordered_json json_of(const Estimate& estimate) {
  return {{"value", estimate.value}, {"error", estimate.error}};
}

nlohmann::ordered_json json_of(const Divergence& d, bool with_tokens) {
  nlohmann::ordered_json out = {{"positions", d.count()}};
  out["kl"] = {{"mean", d.kl().value},         {"error", d.kl().error},
               {"median", d.kl_quantile(0.5)}, {"p90", d.kl_quantile(0.9)},
               {"p95", d.kl_quantile(0.95)},   {"p99", d.kl_quantile(0.99)},
               {"max", d.kl_quantile(1)}};
  out["same_top"] = json_of(d.same_top());
  out["shared"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < d.top_k().size(); ++i)
    out["shared"].push_back(
        {{"k", d.top_k()[i]}, {"value", d.shared(i).value}, {"error", d.shared(i).error}});
  if (!with_tokens) return out;
  out["perplexity_ratio"] = json_of(d.ratio());
  out["log_perplexity_ratio"] = json_of(d.log_ratio());
  out["dp_mean"] = json_of(d.mean_change());
  out["dp_rms"] = json_of(d.rms_change());
  return out;
}

struct Report {
  const ScoreCommand& command;
  const Side& a;
  const Side* b;
  const Input& input;
  const Score& score;
  size_t threads;
  double seconds;
  bool with_tokens() const { return score.nll.count() > 0; }
};

void print_json(const Report& report) {
  const auto& score = report.score;
  nlohmann::ordered_json out = {{"plumb", "score"}, {"version", 1}};
  if (report.input.context != 0) out["context"] = report.input.context;
  out["scored"] = score.nll.count();
  const auto of = [&](const Estimate& e) {
    return report.with_tokens() ? std::optional(e) : std::nullopt;
  };
  out["a"] = json_of(report.a, of(perplexity(score.nll)));
  if (report.b != nullptr) {
    out["b"] = json_of(*report.b, of(score.divergence->perplexity_b()));
    out["divergence"] = json_of(*score.divergence, report.with_tokens());
  }
  out["chunks"] = nlohmann::ordered_json::array();
  for (const auto& chunk : score.sequences)
    out["chunks"].push_back(
        {{"nll", chunk.sum()}, {"scored", chunk.count()}, {"perplexity", perplexity(chunk).value}});
  out["threads"] = report.threads;
  out["kv"] = to_text(report.command.kv);
  out["tokens"] = score.fed;
  out["seconds"] = report.seconds;
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

std::string percent(const Estimate& share, int decimals) {
  return fmt::format("{:.{}f} ± {:.{}f} %", 100 * share.value, decimals, 100 * share.error,
                     decimals);
}

void print_divergence(const Divergence& d, bool with_tokens) {
  if (with_tokens) fmt::print("B / A       {:.6f} ± {:.6f}\n", d.ratio().value, d.ratio().error);
  // Significant digits: how small a divergence is matters as much as how large.
  fmt::print("KL(A ‖ B)   mean {:.4g} ± {:.2g}\n", d.kl().value, d.kl().error);
  fmt::print("            median {:.4g}, 90 % {:.4g}, 95 % {:.4g}, 99 % {:.4g}, max {:.4g}\n",
             d.kl_quantile(0.5), d.kl_quantile(0.9), d.kl_quantile(0.95), d.kl_quantile(0.99),
             d.kl_quantile(1));
  fmt::print("best token  the same in {}\n", percent(d.same_top(), 2));
  for (size_t i = 0; i < d.top_k().size(); ++i)
    fmt::print("{:<11} {} are among the other's\n", fmt::format("best {}", d.top_k()[i]),
               percent(d.shared(i), 2));
  if (with_tokens)
    fmt::print("Δp          mean {}, RMS {}\n", percent(d.mean_change(), 3),
               percent(d.rms_change(), 3));
}

void print_text(const Report& report) {
  const auto& score = report.score;
  const auto text = [](const Estimate& e) {
    return fmt::format("{:.4f} ± {:.4f}", e.value, e.error);
  };
  if (report.b == nullptr) {
    fmt::print("perplexity  {}\n", text(perplexity(score.nll)));
  } else {
    fmt::print("A           {}\nB           {}\n", report.a.path, report.b->path);
    if (report.with_tokens())
      fmt::print("perplexity  A {}, B {}\n", text(perplexity(score.nll)),
                 text(score.divergence->perplexity_b()));
    print_divergence(*score.divergence, report.with_tokens());
  }
  const size_t positions = report.b == nullptr ? score.nll.count() : score.divergence->count();
  if (report.input.context != 0)
    fmt::print("scored      {} tokens: of {} chunks of {} the second half\n", positions,
               score.sequences.size(), report.input.context);
  else
    fmt::print("scored      {} positions of the trace, {} with a next token\n", positions,
               score.nll.count());
}

void print_machine(const Report& report) {
  for (const auto* side : {&report.a, report.b}) {
    if (side == nullptr || !side->model) continue;
    const auto& model = *side->model;
    fmt::print(stderr, "{} ({}, {}) · {} {} · {} threads · KV {}\n",
               model.config.name.empty() ? side->path : model.config.name,
               model.config.architecture, model.weight_types, side->backend->name(),
               side->backend->level(), report.threads, to_text(report.command.kv));
  }
  if (report.score.fed > 0)
    fmt::print(stderr, "{} tokens in {:.1f} s, {:.0f} t/s\n", report.score.fed, report.seconds,
               static_cast<double>(report.score.fed) / report.seconds);
}

Result<void> check_options(const ScoreCommand& command) {
  if (command.against.empty())
    for (const char* option : {"--against-backend", "--top"})
      if (command.given(option))
        return fail(ErrorCode::Usage, fmt::format("{} needs --against", option));
  return {};
}

Result<int> score_command(const ScoreCommand& command) {
  TRY(check_options(command));
  TRY_ASSIGN(auto a, open_side(command, command.path, ""));
  std::optional<Side> b;
  if (!command.against.empty()) {
    TRY_ASSIGN(b, open_side(command, command.against, command.against_backend));
  }
  TRY_ASSIGN(const auto input, read_input(command, a, b ? &*b : nullptr));
  Threads threads(command.machine.thread_count());
  uint64_t available = available_memory();
  TRY_ASSIGN(auto reader_a, reader_of(command, a, input.longest(), threads, available));
  std::optional<LogitReader> reader_b;
  if (b) {
    TRY_ASSIGN(auto reader, reader_of(command, *b, input.longest(), threads, available));
    reader_b.emplace(std::move(reader));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto on_progress = [&](size_t done, double value) {
    const size_t fed = reader_a.fed() + (reader_b ? reader_b->fed() : 0);
    show_progress(fmt::format("perplexity {:.4f} · {:.0f} t/s · chunk", value,
                              static_cast<double>(fed) / seconds()),
                  done + 1, input.sequences.size());
  };
  TRY_ASSIGN(const auto result, score(reader_a, reader_b ? &*reader_b : nullptr, input.sequences,
                                      threads, {command.top_k, on_progress}));
  end_progress();
  const Report report{command, a, b ? &*b : nullptr, input, result, threads.count(), seconds()};
  if (!b && !report.with_tokens())
    return fail(ErrorCode::NotComparable,
                fmt::format("{}: no position with logits has a next token to score", a.path));
  if (command.json) {
    print_json(report);
  } else {
    print_text(report);
    std::fflush(stdout);
    print_machine(report);
  }
  return kPass;
}

}  // namespace

void add_score(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<ScoreCommand>();
  auto* app = program.add_subcommand(
      "score", "Perplexity of a text; with --against how far two models' predictions are apart");
  options->app = app;
  app->add_option("MODEL", options->path, "Model file or folder, or a trace with logits")
      ->required();
  app->add_option("TEXT-FILE", options->text_file,
                  "The text; - is standard input. A trace brings its own tokens");
  app->add_option("--against", options->against, "A second model or trace: B, MODEL being A");
  app->add_option("--against-backend", options->against_backend, "B's backend, if another than A's")
      ->check(CLI::IsMember({"cpu", "referee"}));
  app->add_option("--context", options->context,
                  "Tokens in a chunk; if not given 512, or the model's context if that is less");
  app->add_option("--chunks", options->chunks, "At most so many chunks; 0: all")
      ->capture_default_str();
  app->add_option("--top", options->top_k, "How many best tokens to compare; 5,10")
      ->delimiter(',')
      ->check(CLI::Range(1, 1000));
  options->machine.add_to(*app);
  add_kv_option(*app, options->kv);
  app->add_flag("--json", options->json, "Print JSON");
  app->callback([options, &chosen] {
    chosen = [options] {
      const auto code = score_command(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
