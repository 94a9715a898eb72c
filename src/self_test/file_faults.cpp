// SPDX-License-Identifier: Apache-2.0
// Faults of a conversion: put into a copy of the model file, which must then differ from it in just
// that.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "formats/gguf_writer.h"
#include "quant/dequantize.h"
#include "self_test/self_test.h"

namespace plumb {
namespace {

struct EditedTensor {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  std::vector<std::byte> bytes;

  size_t columns() const { return shape.empty() ? 0 : shape.back(); }
  size_t rows() const { return bytes.size() / row_bytes(); }
  size_t row_bytes() const { return bytes_of(dtype, columns()); }
};

struct EditedFile {
  const Model& model;
  Metadata metadata;
  std::vector<EditedTensor> tensors;

  EditedTensor* find(const std::string& name) {
    const auto found = std::ranges::find(tensors, name, &EditedTensor::name);
    return found == tensors.end() ? nullptr : &*found;
  }
  std::string key(const std::string& name) const { return model.config.architecture + "." + name; }
};

struct FileFault {
  std::string name;
  std::vector<std::string> reasons;       // one of them must be given
  std::function<bool(EditedFile&)> edit;  // false: it does not apply to this file
};

// Row `row` of the edited tensor is what row source(row) was.
bool move_rows(EditedTensor* tensor, const std::function<size_t(size_t)>& source) {
  if (tensor == nullptr || tensor->rows() < 2) return false;
  const auto before = tensor->bytes;
  const size_t size = tensor->row_bytes();
  for (size_t row = 0; row < tensor->rows(); ++row)
    std::memcpy(&tensor->bytes[row * size], &before[source(row) * size], size);
  return tensor->bytes != before;
}

// Halves of each head become neighbours, as a converter does once.
bool permute_for_rope(EditedFile& file, const std::string& name, size_t heads) {
  auto* tensor = file.find(name);
  if (tensor == nullptr || heads == 0 || tensor->rows() % heads != 0) return false;
  const size_t head = tensor->rows() / heads;
  if (head < 4 || head % 2 != 0) return false;
  return move_rows(tensor, [head](size_t row) {
    const size_t i = row % head;
    return row - i + (i % 2 == 0 ? i / 2 : head / 2 + i / 2);
  });
}

bool change_floats(EditedTensor* tensor, const std::function<float(float)>& change) {
  if (tensor == nullptr || tensor->dtype != DType::F32) return false;
  for (size_t at = 0; at < tensor->bytes.size(); at += sizeof(float)) {
    float x = 0;
    std::memcpy(&x, &tensor->bytes[at], sizeof(x));
    x = change(x);
    std::memcpy(&tensor->bytes[at], &x, sizeof(x));
  }
  return true;
}

bool exchange(EditedFile& file, const std::string& a, const std::string& b) {
  auto* x = file.find(a);
  auto* y = file.find(b);
  if (x == nullptr || y == nullptr || x->dtype != y->dtype || x->shape != y->shape) return false;
  std::swap(x->bytes, y->bytes);
  return x->bytes != y->bytes;
}

bool transpose(EditedFile& file) {
  for (auto& tensor : file.tensors) {
    if (is_quantized(tensor.dtype) || tensor.shape.size() != 2 ||
        tensor.shape[0] != tensor.shape[1])
      continue;
    const auto before = tensor.bytes;
    const size_t n = tensor.columns();
    const size_t size = bytes_of(tensor.dtype, 1);
    for (size_t r = 0; r < n; ++r)
      for (size_t c = 0; c < n; ++c)
        std::memcpy(&tensor.bytes[(r * n + c) * size], &before[(c * n + r) * size], size);
    return true;
  }
  return false;
}

// The first matrix whose rows have so many blocks.
EditedTensor* first_of_blocks(EditedFile& file, size_t in_row) {
  for (auto& tensor : file.tensors)
    if (is_quantized(tensor.dtype) && tensor.shape.size() == 2 &&
        tensor.columns() >= in_row * info(tensor.dtype).block_elements)
      return &tensor;
  return nullptr;
}

bool damage_block(EditedFile& file) {
  auto* tensor = first_of_blocks(file, 1);
  if (tensor == nullptr) return false;
  const size_t size = info(tensor->dtype).block_bytes;
  const size_t at = tensor->bytes.size() / size / 2 * size;
  for (size_t i = size / 2; i < size; ++i) tensor->bytes[at + i] ^= std::byte{0x3C};
  return true;
}

bool exchange_blocks(EditedFile& file) {
  auto* tensor = first_of_blocks(file, 2);
  if (tensor == nullptr) return false;
  const size_t size = info(tensor->dtype).block_bytes;
  for (size_t at = 0; at + 2 * size <= tensor->bytes.size(); at += 2 * size)
    std::swap_ranges(tensor->bytes.begin() + static_cast<ptrdiff_t>(at),
                     tensor->bytes.begin() + static_cast<ptrdiff_t>(at + size),
                     tensor->bytes.begin() + static_cast<ptrdiff_t>(at + size));
  return true;
}

bool change_number(EditedFile& file, const std::string& name, double factor) {
  const auto found = file.metadata.find(file.key(name));
  if (found == file.metadata.end()) return false;
  if (auto* x = std::get_if<double>(&found->second)) *x *= factor;
  else if (auto* n = std::get_if<int64_t>(&found->second))
    *n = static_cast<int64_t>(static_cast<double>(*n) * factor);
  else return false;
  return true;
}

bool lose_key(EditedFile& file, const std::string& name) {
  return file.metadata.erase(file.key(name)) > 0;
}

bool lose_tensor(EditedFile& file, const std::string& name) {
  return std::erase_if(file.tensors, [&](const auto& t) { return t.name == name; }) > 0;
}

std::vector<FileFault> file_faults() {
  const std::vector<std::string> rows = {"weights.rows_permuted"};
  return {
      {"q permuted for RoPE once more", rows,
       [](EditedFile& f) {
         return permute_for_rope(f, "blk.0.attn_q.weight", f.model.config.heads);
       }},
      {"k permuted for RoPE once more", rows,
       [](EditedFile& f) {
         return permute_for_rope(f, "blk.0.attn_k.weight", f.model.config.kv_heads);
       }},
      {"k permuted as if it had q's heads", rows,
       [](EditedFile& f) {
         return f.model.config.heads != f.model.config.kv_heads &&
                permute_for_rope(f, "blk.0.attn_k.weight", f.model.config.heads);
       }},
      {"norms off by one",
       {"weights.offset"},
       [](EditedFile& f) {
         bool any = false;
         for (auto& tensor : f.tensors)
           if (tensor.name.find("norm.weight") != std::string::npos)
             any = change_floats(&tensor, [](float x) { return x + 1; }) || any;
         return any;
       }},
      {"a norm scaled",
       {"weights.scaled"},
       [](EditedFile& f) {
         return change_floats(f.find("output_norm.weight"), [](float x) { return x * 1.5F; });
       }},
      {"gate and up exchanged",
       {"weights.swapped"},
       [](EditedFile& f) { return exchange(f, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"); }},
      {"k and v exchanged",
       {"weights.swapped"},
       [](EditedFile& f) { return exchange(f, "blk.0.attn_k.weight", "blk.0.attn_v.weight"); }},
      {"two layers exchanged",
       {"weights.swapped"},
       [](EditedFile& f) { return exchange(f, "blk.0.ffn_up.weight", "blk.1.ffn_up.weight"); }},
      {"the embedding's rows off by one", rows,
       [](EditedFile& f) {
         auto* tensor = f.find("token_embd.weight");
         if (tensor == nullptr) return false;
         const size_t count = tensor->rows();
         return move_rows(tensor, [count](size_t row) { return (row + 1) % count; });
       }},
      {"a square matrix transposed", {"weights.transposed"}, transpose},
      {"a damaged block", {"weights.block", "weights.elements"}, damage_block},
      {"neighbouring blocks exchanged", {"weights.blocks_permuted"}, exchange_blocks},
      {"an output head of its own lost",
       {"weights.missing"},
       [](EditedFile& f) { return lose_tensor(f, "output.weight"); }},
      {"the factors of the frequencies lost",
       {"weights.missing", "rope.frequencies", "config.rope_scaling"},
       [](EditedFile& f) { return lose_tensor(f, "rope_freqs.weight"); }},
      {"another theta",
       {"config.rope.freq_base", "rope.theta", "config.rope_freq_base"},
       [](EditedFile& f) { return change_number(f, "rope.freq_base", 10); }},
      {"another epsilon",
       {"norm.epsilon"},
       [](EditedFile& f) {
         return change_number(f, "attention.layer_norm_rms_epsilon", 10) ||
                change_number(f, "attention.layer_norm_epsilon", 10);
       }},
      {"the scaling of RoPE lost",
       {"rope.scaling", "rope.frequencies"},
       [](EditedFile& f) {
         if (f.model.config.rope_scaling.type.empty() || f.model.config.rope_scaling.type == "none")
           return false;
         return std::erase_if(f.metadata, [&](const auto& entry) {
                  return entry.first.starts_with(f.key("rope.scaling."));
                }) > 0;
       }},
      {"the window lost",
       {"attention.window"},
       [](EditedFile& f) {
         const Plan plan = make_plan(f.model);
         const bool used = std::ranges::any_of(
             plan.steps, [](const Step& step) { return step.attention.window != 0; });
         return used && lose_key(f, "attention.sliding_window");
       }},
      {"the cap of the logits lost",
       {"logits.softcap"},
       [](EditedFile& f) { return lose_key(f, "final_logit_softcapping"); }},
      {"fewer experts used",
       {"experts"},
       [](EditedFile& f) { return change_number(f, "expert_used_count", 0.5); }},
  };
}

Result<EditedFile> opened(const Model& model) {
  EditedFile file{model, model.file->metadata, {}};
  for (const auto& tensor : model.file->tensors)
    file.tensors.push_back({tensor.name,
                            tensor.view.dtype,
                            tensor.view.shape,
                            {tensor.view.bytes.begin(), tensor.view.bytes.end()}});
  return file;
}

Result<Model> written_and_loaded(const EditedFile& file, const std::filesystem::path& path) {
  std::vector<GgufTensor> tensors;
  for (const auto& tensor : file.tensors)
    tensors.push_back({tensor.name, {tensor.dtype, tensor.shape, tensor.bytes}});
  TRY(write_gguf(path, file.metadata, tensors));
  auto model = load_model(path);
  std::filesystem::remove(path);  // the mapping lives on
  return model;
}

void judge_file(const std::shared_ptr<const Model>& right, Result<Model> faulty,
                const FileFault& fault, FileTrial& trial, Threads& threads) {
  if (!faulty) {  // refused by name: nobody runs it
    trial.refused = true;
    trial.text = faulty.error().message;
    return;
  }
  const auto other = std::make_shared<const Model>(std::move(*faulty));
  const Side a{"baseline", "right", right, make_plan(*right), {}};
  const Side b{"candidate", "faulty", other, make_plan(*other), {}};
  for (const auto& finding : compare_models(a, b, threads)) {
    const bool meant = std::ranges::any_of(fault.reasons, [&](const std::string& reason) {
      return finding.reason.find(reason) != std::string::npos;
    });
    if (!trial.found || (meant && !trial.right)) {
      trial.reason = finding.reason;
      trial.text = finding.text;
    }
    trial.found = true;
    trial.right = trial.right || meant;
  }
}

}  // namespace

Result<std::vector<FileTrial>> test_files(const std::shared_ptr<const Model>& model,
                                          Threads& threads) {
  std::vector<FileTrial> trials;
  if (model->file->format != FileFormat::Gguf) return trials;  // what is written is a GGUF
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("plumb-file-fault-{}.gguf", static_cast<const void*>(&trials));
  for (const auto& fault : file_faults()) {
    TRY_ASSIGN(auto file, opened(*model));
    if (!fault.edit(file)) continue;
    FileTrial trial;
    trial.name = fault.name;
    judge_file(model, written_and_loaded(file, path), fault, trial, threads);
    trials.push_back(std::move(trial));
  }
  return trials;
}

}  // namespace plumb
