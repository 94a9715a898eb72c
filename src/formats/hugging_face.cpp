// SPDX-License-Identifier: Apache-2.0
#include "formats/hugging_face.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/json_metadata.h"
#include "formats/safetensors.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMaxJsonDepth = 32;  // config files in use need 5
constexpr const char* kSideFiles[] = {
    "tokenizer.json", "tokenizer.model",         "vocab.json",         "merges.txt",
    "vocab.txt",      "special_tokens_map.json", "chat_template.jinja"};

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

Result<std::string> read_text(const fs::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  const auto bytes = file->bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<json> read_json(const fs::path& path) {
  TRY_ASSIGN(const auto text, read_text(path));
  auto value = parse_json_object(text, "the file", kMaxJsonDepth);
  if (!value) return std::unexpected(std::move(value.error()).within(path.string()));
  return value;
}

// config.json and its companions, where they are.
Result<void> add_config(ModelFile& model, const fs::path& folder) {
  const std::pair<const char*, const char*> files[] = {
      {"config.json", ""},
      {"generation_config.json", "generation_config"},
      {"tokenizer_config.json", "tokenizer_config"}};
  for (const auto& [name, prefix] : files) {
    const auto path = folder / name;
    if (!is_there(path)) continue;
    TRY_ASSIGN(const auto value, read_json(path));
    TRY(add_json(model.metadata, prefix, value, model.warnings));
  }
  for (const auto* name : kSideFiles)
    if (is_there(folder / name)) model.side_files[name] = folder / name;
  if (model.side_files.contains("chat_template.jinja") &&
      !model.metadata.contains("tokenizer_config.chat_template")) {
    TRY_ASSIGN(auto text, read_text(model.side_files["chat_template.jinja"]));
    model.metadata["tokenizer_config.chat_template"] = std::move(text);
  }
  return {};
}

Result<void> add_shard(ModelFile& model, const fs::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  auto content = parse_safetensors(file->bytes());
  if (!content) return std::unexpected(std::move(content.error()).within(path.string()));
  std::set<std::string_view> known;
  for (const auto& tensor : model.tensors) known.insert(tensor.name);
  const auto* start = file->bytes().data();
  std::vector<TensorEntry> tensors;
  for (auto& [name, view] : content->tensors) {
    if (known.contains(name))
      return fail(ErrorCode::Corrupt, fmt::format("{}: tensor '{}' is in another file too",
                                                  path.string(), printable(name)));
    const auto offset = static_cast<uint64_t>(view.bytes.data() - start);
    tensors.push_back({name, std::move(view), offset, model.parts.size()});
  }
  std::ranges::sort(tensors, {}, &TensorEntry::file_offset);
  std::ranges::move(tensors, std::back_inserter(model.tensors));
  for (auto& [key, value] : content->metadata)
    model.metadata.emplace("__metadata__." + key, std::move(value));
  model.parts.push_back({path, std::move(*file)});
  return {};
}

// The file names of an index, in order, each a plain name in the index's own folder.
Result<std::map<std::string, std::set<std::string>>> read_weight_map(const json& index) {
  if (!index.contains("weight_map") || !index["weight_map"].is_object())
    return fail(ErrorCode::Corrupt, "it has no object 'weight_map'");
  std::map<std::string, std::set<std::string>> files;
  for (const auto& [tensor, value] : index["weight_map"].items()) {
    if (!value.is_string())
      return fail(ErrorCode::Corrupt,
                  fmt::format("the file of tensor '{}' is not a string", printable(tensor)));
    const auto name = value.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name == ".." || name == "." ||
        name.find('\0') != std::string::npos)
      return fail(ErrorCode::Corrupt,
                  fmt::format("tensor '{}' is said to be in '{}': a plain file name in the same "
                              "folder is expected",
                              printable(tensor), printable(name)));
    files[name].insert(tensor);
  }
  return files;
}

Result<void> check_weight_map(const ModelFile& model,
                              const std::map<std::string, std::set<std::string>>& files) {
  std::set<std::pair<std::string, std::string>> present;
  for (const auto& tensor : model.tensors)
    present.emplace(model.parts[tensor.part].path.filename().string(), tensor.name);
  for (const auto& [file, names] : files)
    for (const auto& name : names)
      if (!present.contains({file, name}))
        return fail(ErrorCode::Corrupt, fmt::format("tensor '{}' is said to be in {}, which does "
                                                    "not hold it",
                                                    printable(name), file));
  return {};
}

void warn_of_unlisted(ModelFile& model, const std::map<std::string, std::set<std::string>>& files) {
  for (const auto& tensor : model.tensors) {
    const auto file = model.parts[tensor.part].path.filename().string();
    if (!files.at(file).contains(tensor.name))
      model.warnings.push_back(fmt::format("tensor '{}' of {} is not in the index's weight_map",
                                           printable(tensor.name), file));
  }
}

void check_total_size(ModelFile& model, const json& index) {
  const auto metadata = index.find("metadata");
  if (metadata == index.end() || !metadata->is_object()) return;
  const auto total = metadata->find("total_size");
  if (total == metadata->end() || !total->is_number_unsigned()) return;
  uint64_t bytes = 0;
  for (const auto& tensor : model.tensors) bytes += tensor.view.bytes.size();
  if (total->get<uint64_t>() != bytes)
    model.warnings.push_back(fmt::format("the index says {} bytes in all, the files hold {}",
                                         total->get<uint64_t>(), bytes));
}

Result<void> add_indexed(ModelFile& model, const fs::path& path) {
  TRY_ASSIGN(const auto index, read_json(path));
  auto files = read_weight_map(index);
  if (!files) return std::unexpected(std::move(files.error()).within(path.string()));
  for (const auto& [name, tensors] : *files) {
    const auto shard = path.parent_path() / name;
    if (!is_there(shard))
      return fail(ErrorCode::NotFound, fmt::format("{}: the index names it, with {} tensors, but "
                                                   "it is not there",
                                                   shard.string(), tensors.size()));
    TRY(add_shard(model, shard));
  }
  auto checked = check_weight_map(model, *files);
  if (!checked) return std::unexpected(std::move(checked.error()).within(path.string()));
  warn_of_unlisted(model, *files);
  check_total_size(model, index);
  return {};
}

std::vector<fs::path> files_ending(const fs::path& folder, std::string_view extension) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == extension) found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

std::unexpected<Error> no_weights(const fs::path& folder) {
  for (const auto* extension : {".gguf", ".apr"}) {
    const auto found = files_ending(folder, extension);
    if (!found.empty())
      return fail(ErrorCode::NotFound,
                  fmt::format("{}: a folder without safetensors, but with {}; name that file",
                              folder.string(), found.front().filename().string()));
  }
  for (const auto* extension : {".bin", ".pt", ".pth"})
    if (!files_ending(folder, extension).empty())
      return fail(ErrorCode::Unsupported,
                  fmt::format("{}: its weights are PyTorch pickles ({}), which are not read; save "
                              "them as safetensors",
                              folder.string(),
                              files_ending(folder, extension).front().filename().string()));
  return fail(ErrorCode::NotFound,
              fmt::format("{}: a folder without model weights: expected model.safetensors or "
                          "model.safetensors.index.json",
                          folder.string()));
}

}  // namespace

Result<ModelFile> open_hugging_face_folder(const fs::path& folder) {
  ModelFile model;
  model.path = folder;
  model.format = FileFormat::HuggingFace;
  const auto index = folder / "model.safetensors.index.json";
  const auto single = folder / "model.safetensors";
  const auto others = files_ending(folder, ".safetensors");
  if (is_there(index)) {
    TRY(add_indexed(model, index));
  } else if (is_there(single)) {
    TRY(add_shard(model, single));
  } else if (others.size() == 1) {
    TRY(add_shard(model, others.front()));
  } else if (others.size() > 1) {
    return fail(
        ErrorCode::NotFound,
        fmt::format("{}: {} safetensors files but no model.safetensors.index.json that says "
                    "which belong together; name one file",
                    folder.string(), others.size()));
  } else {
    return no_weights(folder);
  }
  TRY(add_config(model, folder));
  if (!is_there(folder / "config.json"))
    model.warnings.emplace_back("the folder has no config.json: the architecture is unknown");
  model.format_text = model.parts.size() == 1
                          ? "Hugging Face folder, safetensors"
                          : fmt::format("Hugging Face folder, {} safetensors", model.parts.size());
  return model;
}

Result<ModelFile> open_safetensors_index(const fs::path& index) {
  ModelFile model;
  model.path = index;
  TRY(add_indexed(model, index));
  TRY(add_config(model, index.parent_path()));
  const bool config = is_there(index.parent_path() / "config.json");
  model.format = config ? FileFormat::HuggingFace : FileFormat::Safetensors;
  model.format_text =
      fmt::format("safetensors, {} file{}{}", model.parts.size(),
                  model.parts.size() == 1 ? "" : "s", config ? ", config.json" : "");
  return model;
}

Result<ModelFile> open_safetensors(const fs::path& path) {
  ModelFile model;
  model.path = path;
  TRY(add_shard(model, path));
  const bool config = is_there(path.parent_path() / "config.json");
  if (config) {
    TRY(add_config(model, path.parent_path()));
  }
  model.format = config ? FileFormat::HuggingFace : FileFormat::Safetensors;
  model.format_text = config ? "safetensors with the config.json beside it" : "safetensors";
  return model;
}

}  // namespace plumb
