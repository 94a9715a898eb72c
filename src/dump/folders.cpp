// SPDX-License-Identifier: Apache-2.0
// Dumps that are folders. What kind a file is of follows from its name and its first bytes; a
// folder holds one kind. Files that belong to no kind are named in a note.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <set>

#include "dump/parts.h"
#include "dump/readers.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepest = 16;           // folders in folders
constexpr size_t kMostFiles = 50'000;  // each is mapped, and the system has a limit of 65530
constexpr size_t kMostNamed = 5;

enum class FileKind {
  Aprt,
  Debugger,
  Sglang,
  Msprobe,
  SavedLogits,
  Tensors,
  Single,
  Other,
  Unknown
};

struct FolderFile {
  fs::path path;
  std::vector<std::string> parts;  // of its path inside the folder
  FileKind kind = FileKind::Unknown;
  const std::string& name() const { return parts.back(); }
  std::string relative() const;
};

std::string join(std::span<const std::string> parts, std::string_view between) {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : std::string(between)) + part;
  return text;
}

std::string FolderFile::relative() const { return join(parts, "/"); }

std::string_view kind_text(FileKind kind) {
  switch (kind) {
    case FileKind::Aprt: return "APRT stages of apr";
    case FileKind::Debugger: return "tensors of transformers' model_addition_debugger";
    case FileKind::Sglang: return "tensors of SGLang's dumper";
    case FileKind::Msprobe: return "files of msprobe";
    case FileKind::SavedLogits: return "logits saved by llama-debug";
    case FileKind::Tensors: return "files of arrays";
    case FileKind::Single: return "dumps in one file";
    case FileKind::Other: return "texts that may be a dump";
    case FileKind::Unknown: return "other files";
  }
  return "";
}

// "layer-2" before "layer-10": digits compare as numbers.
bool natural_less(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      const auto take = [&](std::string_view& text) {
        const size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
        auto digits = text.substr(0, end);
        text.remove_prefix(end);
        digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
        return digits;
      };
      const auto x = take(a);
      const auto y = take(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      continue;
    }
    if (a[0] != b[0]) return a[0] < b[0];
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  return a.size() < b.size();
}

std::optional<uint64_t> to_number(std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return value;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// "step_3" -> ("step", 3); the word may be empty; nothing if it does not end in a number.
struct Numbered {
  std::string word;  // without what joins it to the number
  uint64_t number = 0;
};
std::optional<Numbered> split_number(std::string_view text) {
  const size_t last = text.find_last_not_of("0123456789");
  const size_t start = last == std::string_view::npos ? 0 : last + 1;
  const auto number = to_number(text.substr(start));
  if (!number) return std::nullopt;
  auto word = text.substr(0, start);
  if (!word.empty() && std::string_view("_-=.").contains(word.back())) word.remove_suffix(1);
  return Numbered{std::string(word), *number};
}

bool is_pass_word(std::string_view word) {
  static constexpr std::array kWords = {
      "step",      "pass", "pos",     "position",     "token",           "iter",
      "iteration", "fwd",  "forward", "forward_pass", "forward_pass_id", "decode"};
  return std::ranges::find(kWords, lower(word)) != kWords.end();
}

// "name.npy.gz" -> "name"
std::string stem_of(const std::string& name) {
  fs::path path(name);
  if (path.extension() == ".gz") path = path.stem();
  static constexpr std::array kEndings = {".npy", ".npz",         ".pt",  ".pth",
                                          ".bin", ".safetensors", ".json"};
  return std::ranges::find(kEndings, path.extension().string()) != kEndings.end()
             ? path.stem().string()
             : path.string();
}

std::string list_files(std::span<const FolderFile* const> files) {
  std::string text;
  for (size_t i = 0; i < std::min(files.size(), kMostNamed); ++i)
    text += (i ? ", " : "") + files[i]->relative();
  return files.size() > kMostNamed ? text + ", …" : text;
}

// --- What is there ---

class FolderListing {
 public:
  Result<std::vector<FolderFile>> read(const fs::path& root, Dump& dump) {
    TRY(list(root, {}, 0, dump));
    std::ranges::sort(files_, [](const FolderFile& a, const FolderFile& b) {
      const auto x = a.relative();
      const auto y = b.relative();
      return natural_less(x, y) || (!natural_less(y, x) && x < y);
    });
    return std::move(files_);
  }

 private:
  Result<void> list(const fs::path& folder, const std::vector<std::string>& parts, int depth,
                    Dump& dump) {
    if (depth > kDeepest)
      return fail(
          ErrorCode::Unsupported,
          fmt::format("{}: folders are nested deeper than {} levels", folder.string(), kDeepest));
    std::error_code error;
    fs::directory_iterator at(folder, error);
    for (; !error && at != fs::directory_iterator(); at.increment(error)) {
      const auto& path = at->path();
      auto inner = parts;
      inner.push_back(path.filename().string());
      std::error_code ignored;
      if (fs::is_directory(path, ignored)) {
        if (fs::is_symlink(path, ignored))
          dump.notes.push_back(
              fmt::format("'{}' is a link to a folder: not followed", join(inner, "/")));
        else TRY(list(path, inner, depth + 1, dump));
      } else if (!fs::is_regular_file(path, ignored)) {
        dump.notes.push_back(fmt::format("'{}' is no regular file: skipped", join(inner, "/")));
      } else {
        files_.push_back({path, std::move(inner)});
        if (files_.size() > kMostFiles)
          return fail(ErrorCode::Unsupported,
                      fmt::format("more than {} files: name a folder inside of it", kMostFiles));
      }
    }
    if (error)
      return fail(ErrorCode::Io,
                  fmt::format("{}: cannot list: {}", folder.string(), error.message()));
    return {};
  }

  std::vector<FolderFile> files_;
};

constexpr std::array<std::string_view, 3> kDebuggerMarks = {"_inputs_args", "_inputs_kwargs",
                                                            "_outputs"};

// Where "_outputs" or the like begins in the name of a debugger's file.
size_t debugger_mark(std::string_view stem) {
  size_t first = std::string_view::npos;
  for (const auto mark : kDebuggerMarks) first = std::min(first, stem.find(mark));
  return first;
}

bool is_debug_tree(std::string_view name) {
  return name.ends_with("_debug_tree_FULL_TENSORS.json") ||
         name.ends_with("_debug_tree_SUMMARY.json");
}

// k=v___k=v
std::map<std::string, std::string> read_tags(std::string_view stem) {
  std::map<std::string, std::string> tags;
  std::string last;
  while (!stem.empty()) {
    const size_t end = std::min(stem.find("___"), stem.size());
    const auto piece = stem.substr(0, end);
    stem.remove_prefix(std::min(end + 3, stem.size()));
    const size_t equals = piece.find('=');
    if (equals == std::string_view::npos) {
      if (!last.empty()) tags[last] += fmt::format("___{}", piece);  // a name with "___" in it
    } else {
      last = piece.substr(0, equals);
      tags[last] = piece.substr(equals + 1);
    }
  }
  return tags;
}

bool is_sglang_name(std::string_view name) {
  if (!name.contains("___") || !name.ends_with(".pt")) return false;
  const auto tags = read_tags(name.substr(0, name.size() - 3));
  return tags.contains("name") && (tags.contains("step") || tags.contains("forward_pass_id"));
}

Result<FileKind> kind_of_file(const FolderFile& file, bool has_msprobe) {
  const auto& name = file.name();
  if (is_debug_tree(name)) return FileKind::Debugger;
  const bool beside_probe = name == "construct.json" || name == "stack.json" ||
                            name == "debug.json" || name == "dump.json";
  const bool in_probe = std::ranges::find(file.parts, "dump_tensor_data") != file.parts.end();
  if (has_msprobe && (beside_probe || in_probe)) return FileKind::Msprobe;
  if (is_sglang_name(name)) return FileKind::Sglang;
  if (looks_like_saved_logits(file.path)) return FileKind::SavedLogits;
  TRY_ASSIGN(const auto source, open_source(file.path));
  const auto bytes = source.bytes;
  if (looks_like_aprt(bytes)) return FileKind::Aprt;
  if (looks_like_npy(bytes) || looks_like_zip(bytes) || looks_like_torch(bytes))
    return FileKind::Tensors;
  if (looks_like_safetensors(bytes))
    return debugger_mark(stem_of(name)) == std::string::npos ? FileKind::Tensors
                                                             : FileKind::Debugger;
  if (looks_like_kld(bytes) || looks_like_results(bytes)) return FileKind::Single;
  if (looks_like_json(bytes) || looks_like_callback_text(bytes)) return FileKind::Other;
  return FileKind::Unknown;
}

// --- Joining ---

// Adds what one file holds. `place` stands before its notes.
void merge(Dump& dump, Dump&& part, const std::string& place) {
  std::ranges::move(part.owners, std::back_inserter(dump.owners));
  for (const auto& note : part.notes) dump.notes.push_back(fmt::format("{}: {}", place, note));
  for (auto& [key, value] : part.engine) dump.engine.emplace(key, value);
  for (auto& [key, value] : part.model) dump.model.emplace(key, value);
}

Result<Dump> read_tensor_file(const fs::path& path) {
  auto source = open_source(path);
  if (!source) return std::unexpected(std::move(source.error()).within(path.string()));
  const auto bytes = source->bytes;
  if (looks_like_npy(bytes)) return read_npy(*source);
  if (looks_like_torch(bytes)) return read_torch(*source);
  if (looks_like_zip(bytes)) return read_npz(*source);
  if (looks_like_safetensors(bytes)) return read_safetensors_dump(*source);
  return fail(ErrorCode::Corrupt,
              fmt::format("{}: neither .npy, .npz, torch.save nor safetensors", path.string()));
}

// Passes count from 0, in the order of the numbers that the dump gives them.
class PassNumbers {
 public:
  explicit PassNumbers(std::vector<uint64_t> numbers) : numbers_(std::move(numbers)) {
    std::ranges::sort(numbers_);
    const auto twice = std::ranges::unique(numbers_);
    numbers_.erase(twice.begin(), twice.end());
  }
  size_t index(uint64_t number) const {
    return static_cast<size_t>(std::ranges::lower_bound(numbers_, number) - numbers_.begin());
  }
  const std::vector<uint64_t>& numbers() const { return numbers_; }
  void note(Dump& dump, std::string_view word) const {
    if (numbers_.empty() || numbers_.back() + 1 == numbers_.size()) return;
    if (numbers_.size() == 1)
      dump.notes.push_back(fmt::format("{} {} of the dump is pass 0 here", word, numbers_[0]));
    else
      dump.notes.push_back(fmt::format("{} {} to {} of the dump are passes 0 to {} here", word,
                                       numbers_.front(), numbers_.back(), numbers_.size() - 1));
  }

 private:
  std::vector<uint64_t> numbers_;
};

// What each file says of the tokens of its pass, joined; a note if they do not agree.
class TokenLists {
 public:
  void add(size_t pass, const std::optional<std::vector<int64_t>>& tokens) {
    if (!tokens) return;
    const auto [place, is_new] = passes_.emplace(pass, *tokens);
    if (!is_new && place->second != *tokens) agree_ = false;
  }
  void finish(Dump& dump) {
    if (passes_.empty()) return take_tokens(dump);
    if (!agree_) {
      dump.notes.emplace_back("files of one pass hold different lists of tokens: none is taken");
      return;
    }
    dump.tokens.emplace();
    for (const auto& [pass, tokens] : passes_)
      dump.tokens->insert(dump.tokens->end(), tokens.begin(), tokens.end());
  }

 private:
  std::map<size_t, std::vector<int64_t>> passes_;
  bool agree_ = true;
};

using FileList = std::vector<const FolderFile*>;

// --- (a) APRT ---

struct AprtPlace {
  std::optional<uint64_t> position;
  std::string device;
};

AprtPlace aprt_place(const FolderFile& file) {
  AprtPlace place;
  for (const auto& part : std::span(file.parts).first(file.parts.size() - 1)) {
    const auto numbered = split_number(part);
    if (part == "cpu" || part == "gpu") place.device = part;
    else if (numbered && numbered->word == "pos") place.position = numbered->number;
  }
  return place;
}

// The rows of one stage, one file for each position, as one tensor.
DumpTensor join_rows(const std::vector<DumpTensor>& rows, Dump& dump) {
  DumpTensor joined = rows.front();
  std::vector<std::byte> bytes;
  bytes.reserve(rows.size() * joined.view.bytes.size());
  for (const auto& row : rows)
    bytes.insert(bytes.end(), row.view.bytes.begin(), row.view.bytes.end());
  joined.view.shape.insert(joined.view.shape.begin(), rows.size());
  joined.view.bytes = dump.keep(std::move(bytes));
  joined.pass = 0;
  return joined;
}

// Stages of positions 0, 1, …: rows of one tensor where they have one shape. Scores grow with the
// position and stay apart, each in its own pass.
Result<void> join_positions(std::map<std::string, std::vector<DumpTensor>>& stages,
                            const std::vector<std::string>& order, size_t positions, Dump& dump) {
  std::vector<std::string> apart;
  for (const auto& name : order) {
    auto& rows = stages[name];
    std::ranges::sort(rows, {}, &DumpTensor::pass);
    const bool complete = rows.size() == positions;
    const bool same = std::ranges::all_of(
        rows, [&](const DumpTensor& row) { return row.view.shape == rows[0].view.shape; });
    for (size_t i = 1; i < rows.size(); ++i)
      if (rows[i].pass == rows[i - 1].pass)
        return fail(ErrorCode::Corrupt, fmt::format("'{}' and '{}' are both {} of one position",
                                                    rows[i - 1].source, rows[i].source, name));
    if (complete && same) {
      uint64_t bytes = 0;
      for (const auto& row : rows) bytes += row.view.bytes.size();
      TRY(check_memory(bytes, fmt::format("the stage '{}'", name)));
      dump.tensors.push_back(join_rows(rows, dump));
    } else {
      apart.push_back(name);
      std::ranges::move(rows, std::back_inserter(dump.tensors));
    }
  }
  if (!apart.empty())
    dump.notes.push_back(
        fmt::format("{} stage{} not of one shape at all {} positions, and not joined; the position "
                    "is its pass: "
                    "{}{}",
                    apart.size(), apart.size() == 1 ? " is" : "s are", positions,
                    join(std::span(apart).first(std::min(apart.size(), kMostNamed)), ", "),
                    apart.size() > kMostNamed ? ", …" : ""));
  return {};
}

Result<void> read_aprt_folder(const FileList& files, Dump& dump) {
  dump.kind = "APRT folder";
  std::map<std::string, std::vector<DumpTensor>> stages;
  std::vector<std::string> order;
  std::vector<uint64_t> found;
  std::set<std::string> devices;
  size_t bare = 0;
  for (const auto* file : files) {
    const auto place = aprt_place(*file);
    devices.insert(place.device);
    if (place.position) found.push_back(*place.position);
    else ++bare;
  }
  if (devices.size() > 1)
    return fail(ErrorCode::Unsupported,
                "the folder holds two runs, cpu and gpu: name one of the two folders inside");
  if (bare > 0 && bare != files.size())
    return fail(
        ErrorCode::Unsupported,
        "some stages lie in folders of positions (pos-0000), some do not: name one of them");
  const PassNumbers positions(std::move(found));
  for (const auto* file : files) {
    auto source = open_source(file->path);
    if (!source) return std::unexpected(std::move(source.error()).within(file->path.string()));
    TRY_ASSIGN(auto part, read_aprt(*source));
    for (auto& tensor : part.tensors) {
      const auto place = aprt_place(*file);
      tensor.source = file->relative();
      if (place.position) tensor.pass = positions.index(*place.position);
      if (!stages.contains(tensor.name)) order.push_back(tensor.name);
      stages[tensor.name].push_back(std::move(tensor));
    }
    merge(dump, std::move(part), file->relative());
  }
  if (!devices.begin()->empty()) dump.engine["device"] = *devices.begin();
  const auto& seen = positions.numbers();
  if (seen.empty()) {
    for (const auto& name : order) {
      if (stages[name].size() > 1)
        return fail(ErrorCode::Corrupt,
                    fmt::format("'{}' and '{}' are both {}: name one of the folders inside",
                                stages[name][0].source, stages[name][1].source, name));
      dump.tensors.push_back(std::move(stages[name][0]));
    }
    return {};
  }
  if (seen.back() - seen.front() + 1 != seen.size())
    return fail(ErrorCode::Corrupt, fmt::format("there are {} folders of positions from {} to {}: "
                                                "some are missing",
                                                seen.size(), seen.front(), seen.back()));
  if (seen.front() != 0)
    dump.notes.push_back(
        fmt::format("the first position is {}: row 0 of each stage", seen.front()));
  return join_positions(stages, order, seen.size(), dump);
}

// --- (b) transformers' debugger ---

// LlamaForCausalLM.model.layers.0.mlp_inputs_args_0 -> model.layers.0.mlp.inputs.args.0
std::string debugger_name(const std::string& stem, std::string& class_name) {
  const size_t mark = debugger_mark(stem);
  const auto path = stem.substr(0, mark);
  const size_t dot = path.find('.');
  class_name = path.substr(0, dot);
  std::string name = dot == std::string::npos ? "" : path.substr(dot + 1) + ".";
  auto rest = stem.substr(mark);
  for (const auto known : kDebuggerMarks) {
    if (!rest.starts_with(known)) continue;
    name += known == "_outputs"       ? "outputs"
            : known == "_inputs_args" ? "inputs.args"
                                      : "inputs.kwargs";
    rest.erase(0, known.size());
    break;
  }
  if (rest.starts_with('_')) rest.erase(0, 1);
  if (rest.empty()) return name;
  // Only the numbers at the end are indices; a name may have underscores.
  std::string indices;
  for (auto last = split_number(rest); last && !rest.empty(); last = split_number(rest)) {
    if (!last->word.empty() && rest[last->word.size()] != '_') break;
    indices = fmt::format(".{}{}", last->number, indices);
    rest = last->word;
  }
  return name + (rest.empty() ? "" : "." + rest) + indices;
}

// The ids, where they were given by position: what the embedding was asked for.
void find_debugger_tokens(Dump& dump) {
  take_tokens(dump);
  if (dump.tokens) return;
  for (const auto& tensor : dump.tensors) {
    for (const auto* module : {"embed_tokens", "wte", "word_embeddings", "embed_in"}) {
      if (!tensor.name.ends_with(fmt::format("{}.inputs.args.0", module))) continue;
      dump.tokens = read_tokens(tensor.view);
      return;
    }
  }
}

Result<Dump> read_debug_tree(const FileList& files) {
  const FolderFile* tree = nullptr;
  for (const auto* file : files) {
    if (!file->name().ends_with("_FULL_TENSORS.json")) continue;
    if (tree != nullptr)
      return fail(ErrorCode::Unsupported,
                  fmt::format("two call trees, '{}' and '{}': name one of the files",
                              tree->relative(), file->relative()));
    tree = file;
  }
  if (tree == nullptr) return Dump{};
  auto source = open_source(tree->path);
  if (!source) return std::unexpected(std::move(source.error()).within(tree->path.string()));
  return read_json_dump(*source);
}

Result<void> read_debugger_folder(const FileList& files, Dump& dump) {
  TRY_ASSIGN(auto tree, read_debug_tree(files));
  const auto notes = dump.notes;
  dump = std::move(tree);
  dump.notes.insert(dump.notes.end(), notes.begin(), notes.end());
  dump.kind = "transformers debugger folder";
  dump.engine["name"] = "transformers";
  std::set<std::string> known;
  for (const auto& tensor : dump.tensors) known.insert(tensor.source);
  const bool has_tree = !dump.tensors.empty();
  for (const auto* file : files) {
    if (is_debug_tree(file->name()) || known.contains(file->name())) continue;
    TRY_ASSIGN(auto part, read_tensor_file(file->path));
    std::string class_name;
    const auto name = debugger_name(stem_of(file->name()), class_name);
    if (const auto [at, is_new] = dump.model.emplace("class", class_name);
        !is_new && at->second != class_name)
      return fail(ErrorCode::Unsupported,
                  fmt::format("files of two models, {} and {}: keep them in two folders",
                              at->second, class_name));
    if (part.tensors.size() != 1 || part.tensors[0].name != "data")
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: one tensor 'data' is expected", file->path.string()));
    if (has_tree)
      dump.notes.push_back(fmt::format("'{}' is not in the call tree: put last", file->relative()));
    part.tensors[0].name = name;
    part.tensors[0].source = file->relative();
    dump.tensors.push_back(std::move(part.tensors[0]));
    part.tokens.reset();
    merge(dump, std::move(part), file->relative());
  }
  number_occurrences(dump);
  if (!dump.tokens) find_debugger_tokens(dump);
  return {};
}

// --- (c) SGLang ---

struct SglangFile {
  const FolderFile* file = nullptr;
  std::string name;  // with the layer in it
  uint64_t pass = 0, rank = 0, index = 0;
};

Result<SglangFile> read_sglang_name(const FolderFile& file) {
  const auto tags = read_tags(stem_of(file.name()));
  SglangFile out{.file = &file, .name = tags.at("name")};
  const auto number = [&](const std::string& key, uint64_t& target) -> Result<void> {
    const auto found = tags.find(key);
    if (found == tags.end()) return {};
    const auto value = to_number(found->second);
    if (!value)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: '{}={}' is not a number", file.relative(), key, found->second));
    target = *value;
    return {};
  };
  TRY(number(tags.contains("step") ? "step" : "forward_pass_id", out.pass));
  TRY(number("rank", out.rank));
  TRY(number("dump_index", out.index));
  // The same name is dumped in each layer. Some names have the layer already.
  const auto layer = tags.find("layer_id");
  if (layer != tags.end() && !out.name.contains(fmt::format(".{}.", layer->second)))
    out.name = fmt::format("layers.{}.{}", layer->second, out.name);
  return out;
}

Result<void> add_sglang_file(const SglangFile& entry, const std::string& prefix, size_t pass,
                             Dump& dump) {
  TRY_ASSIGN(auto part, read_tensor_file(entry.file->path));
  size_t added = 0;
  for (auto& tensor : part.tensors) {
    auto inner = tensor.name;  // "value", "value.0", or nothing
    if (inner.starts_with("meta.")) continue;
    if (inner == "value" || inner.starts_with("value.")) inner.erase(0, 5);
    else if (!inner.empty()) inner.insert(0, ".");
    tensor.name = prefix + entry.name + inner;
    tensor.pass = pass;
    tensor.source = entry.file->relative();
    dump.tensors.push_back(std::move(tensor));
    ++added;
  }
  if (added == 0)
    dump.notes.push_back(
        fmt::format("'{}' of pass {} is no tensor: skipped", prefix + entry.name, pass));
  // What it says of itself stands in the file's name as well; only how it is split does not.
  const auto dims = part.engine.find("meta.dims");
  if (dims != part.engine.end() && added > 0)
    dump.engine.emplace("dims." + entry.name, dims->second);
  if (const auto size = part.engine.find("meta.world_size"); size != part.engine.end())
    dump.engine["world_size"] = std::max(dump.engine["world_size"], size->second);
  part.engine.clear();
  part.notes.clear();
  merge(dump, std::move(part), "");
  return {};
}

Result<void> read_sglang_folder(const FileList& files, Dump& dump) {
  dump.kind = "SGLang dump folder";
  dump.engine["name"] = "SGLang";
  std::vector<SglangFile> entries;
  std::set<std::string> folders;
  std::set<uint64_t> ranks;
  std::vector<uint64_t> numbers;
  for (const auto* file : files) {
    TRY_ASSIGN(auto entry, read_sglang_name(*file));
    folders.insert(join(std::span(file->parts).first(file->parts.size() - 1), "/"));
    ranks.insert(entry.rank);
    numbers.push_back(entry.pass);
    entries.push_back(std::move(entry));
  }
  if (folders.size() > 1)
    return fail(ErrorCode::Unsupported,
                fmt::format("several dumps, '{}' and '{}': name one of these folders",
                            *folders.begin(), *folders.rbegin()));
  const PassNumbers passes(std::move(numbers));
  std::ranges::sort(entries, [](const SglangFile& a, const SglangFile& b) {
    return std::tie(a.pass, a.rank, a.index, a.file) < std::tie(b.pass, b.rank, b.index, b.file);
  });
  for (const auto& entry : entries)
    TRY(add_sglang_file(entry, ranks.size() > 1 ? fmt::format("rank{}/", entry.rank) : "",
                        passes.index(entry.pass), dump));
  passes.note(dump, "step");
  number_occurrences(dump);
  take_tokens(dump);
  return {};
}

// --- (d) msprobe ---

struct ProbePlace {
  uint64_t step = 0;
  std::string rank;
};

ProbePlace probe_place(const FolderFile& file) {
  ProbePlace place;
  for (const auto& part : std::span(file.parts).first(file.parts.size() - 1)) {
    const auto numbered = split_number(part);
    if (numbered && numbered->word == "step") place.step = numbered->number;
    if (part.starts_with("rank")) place.rank = part;
  }
  return place;
}

Result<void> read_msprobe_folder(const FileList& files, Dump& dump) {
  dump.kind = "msprobe folder";
  dump.engine["name"] = "msprobe";
  FileList centers;
  std::set<std::string> ranks;
  std::vector<uint64_t> numbers;
  for (const auto* file : files) {
    if (file->name() != "dump.json") continue;
    centers.push_back(file);
    ranks.insert(probe_place(*file).rank);
    numbers.push_back(probe_place(*file).step);
  }
  const PassNumbers steps(std::move(numbers));
  // A dump.json may hold several passes; those of the next step come after them.
  std::vector<std::pair<const FolderFile*, Dump>> parts;
  std::map<size_t, size_t> longest;  // passes in each step
  TokenLists tokens;
  for (const auto* file : centers) {
    auto source = open_source(file->path);
    if (!source) return std::unexpected(std::move(source.error()).within(file->path.string()));
    TRY_ASSIGN(auto part, read_json_dump(*source));
    auto& passes = longest[steps.index(probe_place(*file).step)];
    passes = std::max<size_t>(passes, 1);
    for (const auto& tensor : part.tensors) passes = std::max(passes, tensor.pass + 1);
    parts.emplace_back(file, std::move(part));
  }
  for (auto& [file, part] : parts) {
    const auto place = probe_place(*file);
    size_t first = 0;
    for (size_t step = 0; step < steps.index(place.step); ++step) first += longest[step];
    tokens.add(first, part.tokens);
    for (auto& tensor : part.tensors) {
      tensor.pass += first;
      if (ranks.size() > 1) tensor.name = fmt::format("{}/{}", place.rank, tensor.name);
      dump.tensors.push_back(std::move(tensor));
    }
    merge(dump, std::move(part), file->relative());
  }
  steps.note(dump, "step");
  number_occurrences(dump);
  tokens.finish(dump);
  return {};
}

// --- (e) logits saved by llama-debug ---

Result<void> read_logits_folder(const FileList& files, Dump& dump) {
  if (files.size() > 1)
    return fail(ErrorCode::Unsupported,
                fmt::format("several saved runs: {}; name one of these files", list_files(files)));
  TRY_ASSIGN(auto part, read_saved_logits(files[0]->path));
  part.notes.insert(part.notes.end(), dump.notes.begin(), dump.notes.end());
  dump = std::move(part);
  return {};
}

// --- (f) one file for each tensor ---

struct TensorFile {
  const FolderFile* file = nullptr;
  std::string name;                // without what says the pass and the rank
  std::optional<uint64_t> number;  // of the pass
  std::optional<uint64_t> maybe;   // a number at the end of the name: a pass, or a layer
  std::optional<uint64_t> rank;
  Dump part;
};

std::string_view last_word(std::string_view name) {
  const size_t cut = name.find_last_of("_-./");
  return cut == std::string_view::npos ? name : name.substr(cut + 1);
}

// A number after one of these is an index of the model, not of the run.
bool is_index_word(std::string_view word) {
  static constexpr std::array kWords = {"layer", "layers", "block",   "blocks",  "blk",
                                        "h",     "l",      "expert",  "experts", "head",
                                        "heads", "arr",    "args",    "state",   "states",
                                        "arg",   "output", "outputs", "input",   "inputs"};
  return std::ranges::find(kWords, lower(word)) != kWords.end();
}

// "TP0_PP0_Rank3_pid77" -> 3
std::optional<uint64_t> rank_in(std::string_view part) {
  const auto text = lower(part);
  const size_t at = text.starts_with("rank") ? 0 : text.find("_rank");
  if (at == std::string::npos) return std::nullopt;
  size_t start = at + (at == 0 && text.starts_with("rank") ? 4 : 5);
  if (start < text.size() && (text[start] == '_' || text[start] == '-' || text[start] == '='))
    ++start;
  const size_t end = std::min(text.find_first_not_of("0123456789", start), text.size());
  return to_number(std::string_view(text).substr(start, end - start));
}

TensorFile read_tensor_name(const FolderFile& file) {
  TensorFile out{.file = &file, .name = {}, .number = {}, .maybe = {}, .rank = {}, .part = {}};
  std::vector<std::string> kept;
  for (const auto& part : std::span(file.parts).first(file.parts.size() - 1)) {
    const auto numbered = split_number(part);
    if (numbered && is_pass_word(numbered->word)) out.number = numbered->number;
    else if (const auto rank = rank_in(part)) out.rank = rank;
    else kept.push_back(part);
  }
  auto stem = stem_of(file.name());
  if (auto numbered = split_number(stem)) {
    const auto word = last_word(numbered->word);
    if (is_pass_word(word)) {  // Pass00001, logits_step3
      out.number = numbered->number;
      stem = numbered->word.substr(0, numbered->word.size() - word.size());
      while (!stem.empty() && std::string_view("_-.").contains(stem.back())) stem.pop_back();
    } else if (!word.empty() && !is_index_word(word) && stem.size() > numbered->word.size() &&
               std::string_view("_-").contains(stem[numbered->word.size()]) && !out.number) {
      out.maybe = numbered->number;
    }
  }
  if (!stem.empty()) kept.push_back(stem);
  out.name = join(kept, "/");
  return out;
}

// Whether name_0, name_1, … are passes: numbers without a gap from 0 or 1, and either shapes that
// differ (a prompt, then single tokens) or one row each. The same shape of many rows is rather one
// tensor of each layer.
bool are_passes(std::vector<TensorFile*>& group) {
  if (group.size() < 2) return false;
  std::ranges::sort(group, {}, [](const TensorFile* f) { return *f->maybe; });
  const uint64_t first = *group.front()->maybe;
  bool same = true;
  bool one_row = true;
  const auto shape_of = [](const TensorFile* f) { return f->part.tensors[0].view.shape; };
  for (size_t i = 0; i < group.size(); ++i) {
    if (group[i]->part.tensors.size() != 1 || *group[i]->maybe != first + i) return false;
    const auto shape = shape_of(group[i]);
    same = same && shape == shape_of(group[0]);
    const auto count = element_count(shape).value_or(0);
    one_row = one_row && (shape.empty() || count == shape.back());
  }
  return first <= 1 && (!same || one_row);
}

void decide_numbers(std::vector<TensorFile>& files, Dump& dump) {
  std::map<std::string, std::vector<TensorFile*>> groups;
  for (auto& file : files)
    if (file.maybe) groups[split_number(file.name)->word].push_back(&file);
  std::vector<std::string> taken;
  for (auto& [name, group] : groups) {
    if (!are_passes(group)) continue;
    taken.push_back(name);
    for (auto* file : group) {
      file->number = file->maybe;
      file->name = name;
    }
  }
  if (!taken.empty())
    dump.notes.push_back(
        fmt::format("the numbers at the end of these names were taken for passes: {}{}",
                    join(std::span(taken).first(std::min(taken.size(), kMostNamed)), ", "),
                    taken.size() > kMostNamed ? ", …" : ""));
}

Result<void> read_tensor_folder(const FileList& files, Dump& dump) {
  dump.kind = "folder of arrays";
  std::vector<TensorFile> entries;
  std::set<uint64_t> ranks;
  std::vector<uint64_t> numbers;
  for (const auto* file : files) {
    auto entry = read_tensor_name(*file);
    TRY_ASSIGN(entry.part, read_tensor_file(file->path));
    if (entry.rank) ranks.insert(*entry.rank);
    entries.push_back(std::move(entry));
  }
  decide_numbers(entries, dump);
  for (const auto& entry : entries)
    if (entry.number) numbers.push_back(*entry.number);
  const PassNumbers passes(std::move(numbers));
  std::ranges::sort(entries, {},
                    [](const TensorFile& f) { return std::pair(f.number.value_or(0), f.file); });
  TokenLists tokens;
  for (auto& entry : entries) {
    const size_t pass = entry.number ? passes.index(*entry.number) : 0;
    const auto prefix =
        entry.rank && ranks.size() > 1 ? fmt::format("rank{}/", *entry.rank) : std::string();
    for (auto& tensor : entry.part.tensors) {
      const bool both = !entry.name.empty() && !tensor.name.empty();
      tensor.name = prefix + entry.name + (both ? "." : "") + tensor.name;
      tensor.pass = pass;
      tensor.source = entry.file->relative();
      if (is_token_name(entry.name) && entry.part.tensors.size() == 1)
        tokens.add(pass, read_tokens(tensor.view));
      dump.tensors.push_back(std::move(tensor));
    }
    tokens.add(pass, entry.part.tokens);
    merge(dump, std::move(entry.part), entry.file->relative());
  }
  passes.note(dump, "number");
  number_occurrences(dump);
  tokens.finish(dump);
  return {};
}

// --- Which of them it is ---

Result<void> refuse_model(const std::vector<FolderFile>& files) {
  bool config = false;
  const FolderFile* weights = nullptr;
  for (const auto& file : files) {
    if (file.parts.size() != 1) continue;
    config = config || file.name() == "config.json";
    if (file.name() == "model.safetensors" || file.name().starts_with("model-00001-of-"))
      weights = &file;
  }
  if (!config || weights == nullptr) return {};
  return fail(
      ErrorCode::Unsupported,
      fmt::format("the folder holds a model (config.json and {}), not a dump; if there is a "
                  "dump beside it, name its file",
                  weights->name()));
}

// Files that explain a NAME.bin of saved logits.
bool belongs_to_logits(const FolderFile& file, const FileList& logits) {
  return std::ranges::any_of(logits, [&](const FolderFile* bin) {
    const auto stem = bin->path.stem().string();
    return file.path.parent_path() == bin->path.parent_path() &&
           (file.name() == stem + ".txt" || file.name() == stem + "-tokens.bin" ||
            file.name() == stem + "-prompt.txt");
  });
}

Result<FileKind> choose_kind(const std::map<FileKind, FileList>& kinds) {
  std::string found;
  std::vector<FileKind> dumps;
  for (const auto& [kind, files] : kinds) {
    found += fmt::format("{}{} {} ({})", found.empty() ? "" : "; ", files.size(), kind_text(kind),
                         list_files(files));
    if (kind < FileKind::Other) dumps.push_back(kind);
  }
  if (dumps.size() == 1) return dumps[0];
  if (dumps.size() > 1)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("the folder holds several kinds of dumps: {}. Keep one kind in a folder, "
                    "or name a folder or file inside of it",
                    found));
  const auto others = kinds.find(FileKind::Other);
  if (others != kinds.end() && others->second.size() == 1) return FileKind::Other;
  return fail(ErrorCode::Unsupported,
              fmt::format("{}: {}",
                          others == kinds.end() ? "no dump is in the folder"
                                                : "the folder is no dump by itself; name "
                                                  "one of its files",
                          found.empty() ? "it is empty" : found));
}

Result<void> read_kind(FileKind kind, const FileList& files, Dump& dump) {
  switch (kind) {
    case FileKind::Aprt: return read_aprt_folder(files, dump);
    case FileKind::Debugger: return read_debugger_folder(files, dump);
    case FileKind::Sglang: return read_sglang_folder(files, dump);
    case FileKind::Msprobe: return read_msprobe_folder(files, dump);
    case FileKind::SavedLogits: return read_logits_folder(files, dump);
    case FileKind::Tensors: return read_tensor_folder(files, dump);
    default: break;
  }
  if (files.size() > 1)
    return fail(ErrorCode::Unsupported,
                fmt::format("several dumps: {}; name one of these files", list_files(files)));
  TRY_ASSIGN(auto part, open_dump(files[0]->path));
  part.notes.insert(part.notes.end(), dump.notes.begin(), dump.notes.end());
  dump = std::move(part);
  return {};
}

Result<Dump> read(const fs::path& root) {
  Dump dump;
  TRY_ASSIGN(auto files, FolderListing().read(root, dump));
  TRY(refuse_model(files));
  const bool has_msprobe =
      std::ranges::any_of(files, [](const FolderFile& f) { return f.name() == "dump.json"; });
  std::map<FileKind, FileList> kinds;
  for (auto& file : files) {
    auto kind = kind_of_file(file, has_msprobe);
    if (!kind) return std::unexpected(std::move(kind.error()).within(file.path.string()));
    file.kind = *kind;
    kinds[*kind].push_back(&file);
  }
  TRY_ASSIGN(const FileKind kind, choose_kind(kinds));
  const auto used = kinds[kind];
  TRY(read_kind(kind, used, dump));
  for (const auto other : {FileKind::Other, FileKind::Unknown}) {
    if (other == kind) continue;
    FileList skipped;
    for (const auto* file : kinds[other])
      if (kind != FileKind::SavedLogits || !belongs_to_logits(*file, used)) skipped.push_back(file);
    if (!skipped.empty())
      dump.notes.push_back(fmt::format("{} file{} not read: {}", skipped.size(),
                                       skipped.size() == 1 ? " was" : "s were",
                                       list_files(skipped)));
  }
  return dump;
}

}  // namespace

Result<Dump> read_folder(const fs::path& path) {
  auto dump = read(path);
  if (!dump) {
    const auto where = path.string();
    if (dump.error().message.starts_with(where)) return dump;
    return std::unexpected(std::move(dump.error()).within(where));
  }
  dump->label = path.string();
  return dump;
}

}  // namespace plumb
