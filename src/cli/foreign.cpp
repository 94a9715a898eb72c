// SPDX-License-Identifier: Apache-2.0
#include "cli/foreign.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "dump/readers.h"
#include "formats/gguf.h"

namespace plumb::cli {
namespace {

bool begins_with(const std::string& path, std::string_view magic) {
  std::ifstream file(path, std::ios::binary);
  std::string head(magic.size(), '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  return file.gcount() == static_cast<std::streamsize>(magic.size()) && head == magic;
}

bool holds_results(const std::string& path) {
  const auto source = open_source(path);
  return source && looks_like_results(source->bytes);
}

}  // namespace

Error model_in_place_of_run(const std::string& path, std::string_view expected) {
  // A dump in a GGUF that was cut looks like a model.
  if (begins_with(path, "GGUF"))
    if (const auto source = open_source(path))
      if (auto content = parse_gguf(source->bytes); !content)
        return std::move(content.error()).within(path);
  return {ErrorCode::Usage, fmt::format("{}: it is a model; {}", path, expected)};
}

Result<InputKind> kind_of(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(path, error))
    return fail(ErrorCode::NotFound, fmt::format("{}: there is no such file or folder", path));
  if (fs::is_directory(path, error))
    return fs::exists(fs::path(path) / "config.json", error) ? InputKind::Model : InputKind::Dump;
  // Opening a pipe that nobody writes to would hold us here for ever.
  if (!fs::is_regular_file(path, error))
    return fail(ErrorCode::Io, fmt::format("{}: it is not a regular file (a pipe or a device "
                                           "cannot be mapped)",
                                           path));
  if (begins_with(path, "GGUF")) return holds_results(path) ? InputKind::Dump : InputKind::Model;
  if (begins_with(path, "APRT")) return InputKind::Dump;
  if (begins_with(path, "APR")) return InputKind::Model;
  if (is_plumb_trace(path)) return InputKind::Trace;
  return InputKind::Dump;
}

void NamesOptions::add_to(CLI::App& app, bool with_tokens) {
  app.add_option("--names", names,
                 "Table of names for another engine's dump: a file, or one that is built in "
                 "(docs/names.md)");
  if (!with_tokens) return;
  app.add_option("--tokens", tokens,
                 "Token ids that the dump's run was fed, where it does not say them");
  app.add_option("--prompt-tokens", prompt,
                 "How many of them were one prefill; 0: as the dump says");
}

Result<ImportOptions> NamesOptions::import_options() const {
  ImportOptions out;
  if (!names.empty()) {
    TRY_ASSIGN(out.table, find_name_table(names));
  }
  if (!tokens.empty()) {
    TRY_ASSIGN(out.tokens, parse_token_ids(tokens, "--tokens"));
  }
  if (prompt > 0) out.prompt = prompt;
  return out;
}

Result<Trace> open_run(const std::string& path, const Model* model, const NamesOptions& options) {
  TRY_ASSIGN(const auto kind, kind_of(path));
  if (kind == InputKind::Model)
    return std::unexpected(model_in_place_of_run(path, "a trace or a dump of a run is expected"));
  if (kind == InputKind::Trace) {
    TRY_ASSIGN(auto trace, open_trace(path));
    if (model != nullptr) order_rope_rows(trace, *model);
    return trace;
  }
  if (model == nullptr)
    return fail(
        ErrorCode::Usage,
        fmt::format("{}: a dump of another engine: its names become steps only with --model",
                    path));
  TRY_ASSIGN(const auto dump, open_dump(path));
  TRY_ASSIGN(const auto how, options.import_options());
  const Plan plan = make_plan(*model);
  auto imported = import_dump(dump, model, &plan, how);
  if (!imported) return std::unexpected(std::move(imported).error());
  const auto mapped =
      std::ranges::count_if(imported->names, [](const auto& n) { return !n.step.empty(); });
  fmt::print(stderr, "imported    {}: {}, {} of {} tensors are steps{}\n", path, dump.kind, mapped,
             imported->names.size(),
             imported->table.empty() ? "" : fmt::format(" by the table {}", imported->table));
  for (const auto& note : imported->notes) fmt::print(stderr, "note        {}\n", note);
  // A shape that does not fit may be what is wrong with the run itself.
  size_t misfits = 0;
  for (const auto& name : imported->names) {
    if (!name.reason.starts_with("its shape")) continue;
    if (misfits < 3)
      fmt::print(stderr, "left out    {} {}: {}\n", name.name, name.shape, name.reason);
    ++misfits;
  }
  if (misfits > 3)
    fmt::print(stderr, "left out    {} more for their shape: plumb names {} --model {}\n",
               misfits - 3, path, model->path);
  if (mapped == 0)
    return fail(
        ErrorCode::NotComparable,
        fmt::format(
            "{}: none of its names is a step of this model: 'plumb names {} --model {}' shows them",
            path, path, model->path));
  return std::move(imported->trace);
}

}  // namespace plumb::cli
