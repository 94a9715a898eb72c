// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/byte_reader.h"
#include "dump/parts.h"
#include "dump/pickle.h"
#include "dump/readers.h"
#include "dump/zip_archive.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

constexpr int kDeepest = 100;  // levels of lists and dicts
constexpr uint64_t kMostVisits =
    4'000'000;  // of values; one that stands in many places counts often
constexpr size_t kMostDimensions = 64;
constexpr size_t kMostNamed = 6;  // values in one note
// A view that repeats values (stride 0) needs more bytes than the file has. A mask for 128 heads
// needs 128 times as many; what asks for much more is a trap.
constexpr uint64_t kMostRepeats = 256;
constexpr uint64_t kSmallViews = uint64_t{16} << 20;

// The first pickle of the form before 1.6 is this number.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

std::unexpected<Error> corrupt(std::string message) {
  return fail(ErrorCode::Corrupt, std::move(message));
}

struct NamedType {
  std::string_view name;
  DType dtype;
};
constexpr NamedType kStorageTypes[] = {
    {"DoubleStorage", DType::F64},    {"FloatStorage", DType::F32}, {"HalfStorage", DType::F16},
    {"BFloat16Storage", DType::BF16}, {"LongStorage", DType::I64},  {"IntStorage", DType::I32},
    {"ShortStorage", DType::I16},     {"CharStorage", DType::I8},   {"ByteStorage", DType::U8},
    {"BoolStorage", DType::Bool}};
constexpr NamedType kTensorTypes[] = {{"float64", DType::F64},
                                      {"double", DType::F64},
                                      {"float32", DType::F32},
                                      {"float", DType::F32},
                                      {"float16", DType::F16},
                                      {"half", DType::F16},
                                      {"bfloat16", DType::BF16},
                                      {"int64", DType::I64},
                                      {"long", DType::I64},
                                      {"int32", DType::I32},
                                      {"int", DType::I32},
                                      {"int16", DType::I16},
                                      {"short", DType::I16},
                                      {"int8", DType::I8},
                                      {"uint8", DType::U8},
                                      {"uint16", DType::U16},
                                      {"uint32", DType::U32},
                                      {"uint64", DType::U64},
                                      {"bool", DType::Bool},
                                      {"float8_e5m2", DType::F8_E5M2},
                                      {"float8_e4m3fn", DType::F8_E4M3}};

std::string_view last_part(std::string_view name) {
  return name.substr(name.find_last_of('.') + 1);
}

// What a persistent id says: ('storage', type, key, place, number of values[, view]).
struct StorageId {
  std::string key;
  std::optional<DType> dtype;  // nothing: bytes without a type
  uint64_t count = 0;
  uint64_t offset = 0;  // of a view into the storage `key` (the form before 1.6)
  size_t item() const { return dtype ? info(*dtype).block_bytes : 1; }
};

Result<uint64_t> read_size(const PickleContent& pickle, PickleId id, std::string_view what) {
  const auto& value = pickle.at(id);
  if (value.kind == PickleKind::Int && value.integer >= 0)
    return static_cast<uint64_t>(value.integer);
  return corrupt(fmt::format("{} must be a whole number of at least 0, found {}", what,
                             value.kind == PickleKind::Int ? fmt::to_string(value.integer)
                                                           : std::string(kind_name(value.kind))));
}

Result<std::vector<uint64_t>> read_sizes(const PickleContent& pickle, PickleId id,
                                         std::string_view what) {
  const auto& value = pickle.at(id);
  if (value.kind != PickleKind::Tuple && value.kind != PickleKind::List)
    return corrupt(fmt::format("{} is {}, not a tuple", what, kind_name(value.kind)));
  if (value.items.size() > kMostDimensions)
    return fail(ErrorCode::Unsupported, fmt::format("{} has {} dimensions, at most {} are read",
                                                    what, value.items.size(), kMostDimensions));
  std::vector<uint64_t> sizes;
  for (const PickleId item : value.items) {
    TRY_ASSIGN(const uint64_t size, read_size(pickle, item, what));
    sizes.push_back(size);
  }
  return sizes;
}

Result<void> read_storage_view(const PickleContent& pickle, PickleId id, StorageId& storage) {
  const auto& view = pickle.at(id);
  if (view.kind == PickleKind::None) return {};
  if (view.kind != PickleKind::Tuple || view.items.size() != 3)
    return corrupt("a storage's view must be a key, an offset and a size");
  TRY_ASSIGN(storage.offset, read_size(pickle, view.items[1], "a storage view's offset"));
  TRY_ASSIGN(const uint64_t size, read_size(pickle, view.items[2], "a storage view's size"));
  if (storage.offset > storage.count || size > storage.count - storage.offset)
    return corrupt(fmt::format("a view of {} values from {} on does not lie in a storage of {}",
                               size, storage.offset, storage.count));
  return {};
}

Result<StorageId> read_storage_id(const PickleContent& pickle, PickleId id) {
  const auto& value = pickle.at(id);
  if (value.kind != PickleKind::Persistent)
    return corrupt(fmt::format("a tensor's storage is {}", kind_name(value.kind)));
  const auto& tuple = pickle.at(value.items[0]);
  const auto kind_of_item = [&](size_t i) { return pickle.at(tuple.items[i]).kind; };
  if (tuple.kind != PickleKind::Tuple || tuple.items.size() < 5 || tuple.items.size() > 6 ||
      kind_of_item(0) != PickleKind::Text || pickle.at(tuple.items[0]).text != "storage" ||
      kind_of_item(1) != PickleKind::Global || kind_of_item(2) != PickleKind::Text)
    return corrupt("a storage is not described as torch.save does it");
  StorageId storage;
  storage.key = pickle.at(tuple.items[2]).text;
  const auto name = last_part(pickle.at(tuple.items[1]).text);
  if (name != "UntypedStorage") {
    const auto* known = std::ranges::find(kStorageTypes, name, &NamedType::name);
    if (known == std::end(kStorageTypes))
      return fail(ErrorCode::Unsupported,
                  fmt::format("values of {} are not read: save the tensor in another type",
                              printable(name)));
    storage.dtype = known->dtype;
  }
  TRY_ASSIGN(storage.count, read_size(pickle, tuple.items[4], "a storage's size"));
  if (tuple.items.size() == 6) {
    TRY(read_storage_view(pickle, tuple.items[5], storage));
  }
  return storage;
}

// The bytes of each storage, wherever the file has them.
struct Storages {
  std::map<std::string, std::span<const std::byte>, std::less<>> bytes;
  bool big_endian = false;
  uint64_t file_bytes = 0;
};

// Finds the tensors in what the pickle built.
class TorchWalker {
 public:
  TorchWalker(const PickleContent& pickle, const Storages& storages, Dump& dump)
      : pickle_(pickle), storages_(storages), dump_(dump) {}

  Result<void> run() {
    TRY(walk(pickle_.root, "", 0));
    if (skipped_ > 0) {
      std::string names;
      for (const auto& name : skipped_names_) names += (names.empty() ? "" : ", ") + name;
      dump_.notes.push_back(fmt::format("{} value{} no tensor{}: {}{}", skipped_,
                                        skipped_ == 1 ? " is" : "s are", skipped_ == 1 ? "" : "s",
                                        names, skipped_ > skipped_names_.size() ? ", …" : ""));
    }
    return {};
  }

 private:
  Result<void> walk(PickleId id, const std::string& path, int depth) {
    if (depth > kDeepest)
      return corrupt(fmt::format("'{}…' is nested deeper than {} levels, or holds itself",
                                 path.substr(0, 60), kDeepest));
    if (++visits_ > kMostVisits)
      return fail(ErrorCode::Unsupported,
                  fmt::format("more than {} values: this is not a dump", kMostVisits));
    const auto& value = pickle_.at(id);
    switch (value.kind) {
      case PickleKind::List:
      case PickleKind::Tuple:
      case PickleKind::Set: return walk_list(value, path, depth);
      case PickleKind::Dict: return walk_dict(value, path, depth);
      case PickleKind::Call: return walk_call(id, path);
      default: skip(value, path); return {};
    }
  }

  Result<void> walk_list(const PickleValue& list, const std::string& path, int depth) {
    if (is_token_name(path)) {
      if (const auto tokens = read_token_list(list)) {
        take_token_list(*tokens);
        return {};
      }
    }
    const auto is_plain = [&](PickleId item) {
      const auto kind = pickle_.at(item).kind;
      return kind <= PickleKind::Bytes || kind == PickleKind::Global;
    };
    visits_ += list.items.size();
    if (std::ranges::all_of(list.items, is_plain)) {
      skip(list, path);
      return {};
    }
    for (size_t i = 0; i < list.items.size(); ++i)
      TRY(walk(list.items[i], join(path, std::to_string(i)), depth + 1));
    return {};
  }

  Result<void> walk_dict(const PickleValue& dict, const std::string& path, int depth) {
    std::set<std::string> keys;
    if (dict.items.empty()) skip(dict, path);
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      auto key = key_text(pickle_.at(dict.items[i]));
      if (!key) return std::unexpected(std::move(key.error()).within(place(path)));
      if (!keys.insert(*key).second)
        return corrupt(fmt::format("{}: the key '{}' stands twice", place(path), printable(*key)));
      TRY(walk(dict.items[i + 1], join(path, *key), depth + 1));
    }
    return {};
  }

  Result<void> walk_call(PickleId id, const std::string& path) {
    const auto& value = pickle_.at(id);
    if (!value.text.starts_with("torch._")) {
      skip(value, path);
      return {};
    }
    auto known = views_.find(id);
    if (known == views_.end()) {
      auto view = read_call(value.text, value.items, 0);
      if (!view) return std::unexpected(std::move(view.error()).within(place(path)));
      known = views_.emplace(id, std::move(*view)).first;
    }
    DumpTensor tensor;
    tensor.name = path;
    tensor.view = known->second;
    dump_.tensors.push_back(std::move(tensor));
    return {};
  }

  static std::string join(const std::string& path, std::string_view part) {
    return path.empty() ? std::string(part) : fmt::format("{}.{}", path, part);
  }
  static std::string place(const std::string& path) {
    return path.empty() ? "the whole" : fmt::format("'{}'", printable(path));
  }

  static Result<std::string> key_text(const PickleValue& key) {
    switch (key.kind) {
      case PickleKind::Text: return std::string(key.text);
      case PickleKind::Int: return std::to_string(key.integer);
      case PickleKind::Bool: return key.integer ? "True" : "False";
      case PickleKind::None: return "None";
      case PickleKind::Float: return fmt::format("{}", key.number);
      default:
        return fail(ErrorCode::Unsupported,
                    fmt::format("a key is {}; text and numbers are read", kind_name(key.kind)));
    }
  }

  // [1, 2, 3], or [[1, 2, 3]]: a batch of one.
  std::optional<std::vector<int64_t>> read_token_list(const PickleValue& given) const {
    const PickleValue* list = &given;
    if (list->items.size() == 1 && (pickle_.at(list->items[0]).kind == PickleKind::List ||
                                    pickle_.at(list->items[0]).kind == PickleKind::Tuple))
      list = &pickle_.at(list->items[0]);
    if (list->items.empty()) return std::nullopt;
    std::vector<int64_t> tokens;
    for (const PickleId item : list->items) {
      if (pickle_.at(item).kind != PickleKind::Int) return std::nullopt;
      tokens.push_back(pickle_.at(item).integer);
    }
    return tokens;
  }

  void take_token_list(const std::vector<int64_t>& tokens) {
    visits_ += tokens.size();
    if (dump_.tokens && *dump_.tokens != tokens)
      dump_.notes.emplace_back("the dump holds several lists of tokens: the first is taken");
    if (!dump_.tokens) dump_.tokens = tokens;
  }

  void skip(const PickleValue& value, const std::string& path) {
    // What a dumper says about a tensor stands beside it under "meta".
    if (path.starts_with("meta.") &&
        (value.kind == PickleKind::Text || value.kind == PickleKind::Int)) {
      dump_.engine.emplace(path, value.kind == PickleKind::Text
                                     ? std::string(value.text.substr(0, 1000))
                                     : std::to_string(value.integer));
      return;
    }
    ++skipped_;
    if (skipped_names_.size() < kMostNamed)
      skipped_names_.push_back(fmt::format("{} ({})", path.empty() ? "the whole" : printable(path),
                                           kind_name(value.kind)));
  }

  // --- One tensor ---

  Result<TensorView> read_call(std::string_view name, std::span<const PickleId> given, int depth) {
    const auto function = last_part(name);
    const auto need = [&](size_t least, size_t most) -> Result<void> {
      if (given.size() >= least && given.size() <= most) return {};
      return corrupt(fmt::format("{} has {} arguments, {} to {} are known", function, given.size(),
                                 least, most));
    };
    if (depth > 4) return corrupt("a tensor is wrapped more than 4 times");
    if (function == "_rebuild_tensor") {
      TRY(need(4, 4));
      return read_tensor(given, std::nullopt);
    }
    if (function == "_rebuild_tensor_v2") {
      TRY(need(6, 7));
      if (given.size() == 7) TRY(check_metadata(given[6]));
      return read_tensor(given, std::nullopt);
    }
    if (function == "_rebuild_tensor_v3") {
      TRY(need(7, 8));
      if (given.size() == 8) TRY(check_metadata(given[7]));
      TRY_ASSIGN(const DType dtype, read_type(given[6]));
      return read_tensor(given, dtype);
    }
    if (function == "_rebuild_parameter" || function == "_rebuild_parameter_with_state") {
      TRY(need(3, 4));
      const auto& inner = pickle_.at(given[0]);
      if (inner.kind != PickleKind::Call) return corrupt("a parameter holds no tensor");
      return read_call(inner.text, inner.items, depth + 1);
    }
    if (function == "_rebuild_from_type_v2") {
      TRY(need(4, 4));
      const auto& inner = pickle_.at(given[0]);
      const auto& arguments = pickle_.at(given[2]);
      if (inner.kind != PickleKind::Global || arguments.kind != PickleKind::Tuple)
        return corrupt("a tensor of a type of its own is not described as torch.save does it");
      return read_call(inner.text, arguments.items, depth + 1);
    }
    return fail(ErrorCode::Unsupported,
                fmt::format("the file asks to call {}: refused, nothing was run", printable(name)));
  }

  // {"conj": True}: values that are to be changed when they are read.
  Result<void> check_metadata(PickleId id) const {
    const auto& metadata = pickle_.at(id);
    if (metadata.kind == PickleKind::None) return {};
    if (metadata.kind != PickleKind::Dict) return corrupt("a tensor's metadata is not a dict");
    for (size_t i = 1; i < metadata.items.size(); i += 2) {
      const auto& value = pickle_.at(metadata.items[i]);
      if (value.kind != PickleKind::Bool || value.integer != 0)
        return fail(ErrorCode::Unsupported,
                    "a tensor is marked as negated or conjugated: save tensor.resolve_neg()"
                    ".resolve_conj() instead");
    }
    return {};
  }

  Result<DType> read_type(PickleId id) const {
    const auto& value = pickle_.at(id);
    if (value.kind != PickleKind::Global)
      return corrupt(fmt::format("a tensor's type is {}", kind_name(value.kind)));
    const auto* known = std::ranges::find(kTensorTypes, last_part(value.text), &NamedType::name);
    if (known != std::end(kTensorTypes)) return known->dtype;
    return fail(ErrorCode::Unsupported,
                fmt::format("values of {} are not read: save the tensor in another type",
                            printable(value.text)));
  }

  Result<TensorView> read_tensor(std::span<const PickleId> given, std::optional<DType> dtype) {
    TRY_ASSIGN(const auto storage, read_storage_id(pickle_, given[0]));
    if (!dtype) dtype = storage.dtype;
    if (!dtype) return corrupt("its storage has no type, and neither has the tensor");
    const auto found = storages_.bytes.find(storage.key);
    if (found == storages_.bytes.end())
      return corrupt(fmt::format("its storage '{}' is not in the file", printable(storage.key)));
    const size_t item = info(*dtype).block_bytes;
    uint64_t declared = 0;
    if (__builtin_mul_overflow(storage.count, storage.item(), &declared) ||
        declared != found->second.size())
      return corrupt(fmt::format("its storage '{}' should have {} values of {} bytes, has {} bytes",
                                 printable(storage.key), storage.count, storage.item(),
                                 found->second.size()));
    const auto bytes = found->second.subspan(storage.offset * storage.item());
    TRY_ASSIGN(uint64_t offset, read_size(pickle_, given[1], "a tensor's offset"));
    TRY_ASSIGN(auto shape, read_sizes(pickle_, given[2], "a tensor's shape"));
    TRY_ASSIGN(const auto strides, read_sizes(pickle_, given[3], "a tensor's strides"));
    if (strides.size() != shape.size())
      return corrupt(
          fmt::format("its shape has {} dimensions, its strides {}", shape.size(), strides.size()));
    return make_view(*dtype, item, std::move(shape), strides, offset, bytes);
  }

  // The place of the last value, if it lies before `values`; all values from `offset` on do then.
  static bool lies_inside(std::span<const uint64_t> shape, std::span<const uint64_t> strides,
                          uint64_t offset, uint64_t values) {
    uint64_t last = offset;
    for (size_t d = 0; d < shape.size(); ++d) {
      uint64_t step = 0;
      if (__builtin_mul_overflow(shape[d] - 1, strides[d], &step) ||
          __builtin_add_overflow(last, step, &last))
        return false;
    }
    return last < values;
  }

  Result<TensorView> make_view(DType dtype, size_t item, std::vector<uint64_t> shape,
                               const std::vector<uint64_t>& strides, uint64_t offset,
                               std::span<const std::byte> bytes) {
    TensorView view{.dtype = dtype, .shape = std::move(shape), .bytes = {}};
    const auto count = element_count(view.shape);
    const auto size = count ? tensor_bytes(dtype, *count) : std::nullopt;
    const auto packed = row_major_strides(view.shape);
    if (!size || !packed)
      return corrupt(fmt::format("the size of its shape {} overflows", to_text(view.shape)));
    if (*count == 0) return view;
    if (!lies_inside(view.shape, strides, offset, bytes.size() / item))
      return corrupt(
          fmt::format("its shape {} with strides {} from value {} on does not lie in its "
                      "storage of {} values",
                      to_text(view.shape), to_text(strides), offset, bytes.size() / item));
    const bool reverse = storages_.big_endian && item > 1;
    bool in_order = true;  // A dimension of size 1 may have any stride.
    for (size_t d = 0; d < view.shape.size(); ++d)
      in_order = in_order && (view.shape[d] == 1 || strides[d] == (*packed)[d]);
    const auto start = bytes.subspan(offset * item);
    if (in_order && !reverse) {
      view.bytes = keep_aligned(start.first(*size), item, dump_);
      return view;
    }
    copied_ += std::min(*size, UINT64_MAX / 2 - copied_);
    const uint64_t most = storages_.file_bytes * kMostRepeats + kSmallViews;
    if (copied_ > most)
      return fail(ErrorCode::Unsupported,
                  fmt::format("its shape {} with strides {} repeats the values of its storage: {} "
                              "bytes from a file of {}: refused",
                              to_text(view.shape), to_text(strides), *size, storages_.file_bytes));
    TRY(check_memory(*size, "this tensor"));
    view.bytes = dump_.keep(gather(start.data(), item, view.shape, strides, reverse));
    return view;
  }

  const PickleContent& pickle_;
  const Storages& storages_;
  Dump& dump_;
  std::map<PickleId, TensorView> views_;
  std::vector<std::string> skipped_names_;
  size_t skipped_ = 0;
  uint64_t visits_ = 0;
  uint64_t copied_ = 0;
};

// --- The zip form ---

// "top/" of an archive with top/data.pkl; nothing if there is none.
std::optional<std::string> find_top(const std::vector<ZipEntry>& entries) {
  for (const auto& entry : entries) {
    const size_t slash = entry.name.find('/');
    if (slash != std::string::npos && entry.name.substr(slash) == "/data.pkl")
      return entry.name.substr(0, slash + 1);
  }
  return std::nullopt;
}

Result<std::span<const std::byte>> read_record(const ZipEntry& entry, Dump& dump) {
  if (!entry.deflated) {
    TRY(check_stored(entry, true));
    return entry.raw;
  }
  TRY(check_memory(entry.size, fmt::format("the record '{}'", printable(entry.name))));
  TRY_ASSIGN(auto content, inflate_entry(entry));
  return dump.keep(std::move(content));
}

Result<void> read_zip_form(const DumpSource& source, Dump& dump) {
  TRY_ASSIGN(const auto entries, parse_zip(source.bytes));
  const auto top = find_top(entries);
  if (!top) return corrupt("the archive has no data.pkl in a folder: torch.save did not write it");
  Storages storages;
  storages.file_bytes = source.bytes.size();
  std::span<const std::byte> pickle_bytes;
  uint64_t needed = 0;
  for (const auto& entry : entries) needed += entry.deflated ? entry.size : 0;
  TRY(check_memory(needed, "the unpacked archive"));
  const std::string data = *top + "data/";
  for (const auto& entry : entries) {
    if (entry.name == *top + "data.pkl") {
      TRY_ASSIGN(pickle_bytes, read_record(entry, dump));
    } else if (entry.name.starts_with(data)) {
      TRY_ASSIGN(storages.bytes[entry.name.substr(data.size())], read_record(entry, dump));
    } else if (entry.name == *top + "byteorder") {
      TRY_ASSIGN(const auto order, read_record(entry, dump));
      const std::string_view text(reinterpret_cast<const char*>(order.data()), order.size());
      storages.big_endian = text == "big";
      if (text != "big" && text != "little")
        return corrupt(
            fmt::format("its byte order is '{}', neither little nor big", printable(text)));
    }
  }
  TRY_ASSIGN(const auto pickle, parse_pickle(pickle_bytes));
  if (pickle.size_bytes != pickle_bytes.size())
    return corrupt(fmt::format("data.pkl goes on for {} bytes after its end",
                               pickle_bytes.size() - pickle.size_bytes));
  return TorchWalker(pickle, storages, dump).run();
}

// --- The form before 1.6: five pickles in a row, then the storages ---

Result<PickleContent> next_pickle(std::span<const std::byte>& rest, std::string_view what) {
  auto pickle = parse_pickle(rest);
  if (!pickle) return std::unexpected(std::move(pickle.error()).within(what));
  rest = rest.subspan(pickle->size_bytes);
  return pickle;
}

Result<bool> is_big_endian(const PickleContent& system) {
  const auto& items = system.at(system.root).items;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (system.at(items[i]).text != "little_endian") continue;
    const auto& value = system.at(items[i + 1]);
    if (value.kind == PickleKind::Bool) return value.integer == 0;
  }
  return corrupt("its third pickle does not say whether it is little-endian");
}

// The size of a value in each storage, which only the tensors tell.
Result<std::map<std::string, StorageId, std::less<>>> find_storages(const PickleContent& pickle) {
  std::map<std::string, StorageId, std::less<>> found;
  for (PickleId id = 0; id < pickle.values.size(); ++id) {
    if (pickle.at(id).kind != PickleKind::Persistent) continue;
    TRY_ASSIGN(auto storage, read_storage_id(pickle, id));
    const auto [place, is_new] = found.emplace(storage.key, storage);
    if (!is_new && place->second.item() != storage.item())
      return corrupt(fmt::format("the storage '{}' has two types", printable(storage.key)));
  }
  return found;
}

Result<void> read_legacy_form(const DumpSource& source, Dump& dump) {
  auto rest = source.bytes;
  TRY(next_pickle(rest, "its first pickle"));
  TRY_ASSIGN(const auto version, next_pickle(rest, "its version"));
  if (version.at(version.root).kind != PickleKind::Int || version.at(version.root).integer != 1001)
    return fail(ErrorCode::Unsupported, "its protocol is not 1001, the only one that is known");
  TRY_ASSIGN(const auto system, next_pickle(rest, "its description of the system"));
  TRY_ASSIGN(const auto pickle, next_pickle(rest, "its values"));
  TRY_ASSIGN(const auto keys, next_pickle(rest, "its list of storages"));
  Storages storages;
  storages.file_bytes = source.bytes.size();
  TRY_ASSIGN(storages.big_endian, is_big_endian(system));
  TRY_ASSIGN(const auto described, find_storages(pickle));
  for (const PickleId id : keys.at(keys.root).items) {
    const std::string key(keys.at(id).text);
    const auto place = fmt::format("storage '{}'", printable(key));
    const auto found = described.find(key);
    if (found == described.end()) return corrupt(place + " belongs to no tensor");
    ByteReader reader(rest);
    TRY_ASSIGN(uint64_t count, reader.read<uint64_t>());
    if (storages.big_endian) count = __builtin_bswap64(count);
    uint64_t size = 0;
    if (__builtin_mul_overflow(count, found->second.item(), &size) || size > reader.remaining())
      return corrupt(fmt::format("{} has {} values of {} bytes, the file has {} bytes left", place,
                                 count, found->second.item(), reader.remaining()));
    if (!storages.bytes.emplace(key, rest.subspan(8, size)).second)
      return corrupt(place + " is there twice");
    rest = rest.subspan(8 + size);
  }
  if (!rest.empty())
    return corrupt(fmt::format("{} bytes after the last storage belong to nothing", rest.size()));
  return TorchWalker(pickle, storages, dump).run();
}

bool is_legacy(std::span<const std::byte> bytes) {
  const auto magic = parse_pickle(bytes.first(std::min<size_t>(bytes.size(), 64)));
  return magic && magic->at(magic->root).kind == PickleKind::BigInt &&
         magic->at(magic->root).text == kLegacyMagic;
}

}  // namespace

bool looks_like_torch(std::span<const std::byte> bytes) {
  if (!looks_like_zip(bytes)) return is_legacy(bytes);
  const auto entries = parse_zip(bytes);
  return entries && find_top(*entries);
}

Result<Dump> read_torch(const DumpSource& source) {
  Dump dump;
  dump.kind = "torch.save";
  dump.label = source.path.string();
  dump.owners.push_back(source.owner);
  auto done =
      looks_like_zip(source.bytes) ? read_zip_form(source, dump) : read_legacy_form(source, dump);
  if (!done) return std::unexpected(std::move(done.error()).within(dump.label));
  take_tokens(dump);
  number_occurrences(dump);
  return dump;
}

}  // namespace plumb
