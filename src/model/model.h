// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "formats/gguf.h"
#include "model/tokenizer.h"

namespace plumb {

// A weight matrix (rows = outputs, columns = inputs) or, with one row, a vector.
struct Weight {
  std::string name;  // as the file says it: "blk.0.attn_q.weight"
  DType dtype = DType::F32;
  size_t rows = 0, columns = 0;
  std::span<const std::byte> bytes;
  std::vector<std::byte> storage;  // used by a weight that no file holds (an injected fault)

  const std::byte* row(size_t index) const {
    return bytes.data() + index * bytes_of(dtype, columns);
  }
  std::vector<float> values() const;  // all of them, dequantized
};
using WeightPtr = std::shared_ptr<const Weight>;

enum class RopePairing { Neighbours, Halves };  // (2i, 2i+1) or (i, i + n/2)

struct Config {
  std::string architecture, name;
  size_t vocabulary = 0, context = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0,
         ffn = 0;
  double epsilon = 0;
  double rope_base = 10000, rope_linear_factor = 1;
  size_t rope_dimensions = 0;
  RopePairing rope_pairing = RopePairing::Neighbours;
  size_t window = 0;  // a query sees this many keys, itself included; 0: all
  bool tied_head = false;
};

// A model file with its meaning: shapes are checked, everything the plan needs is there.
struct Model {
  std::string path, sha256;
  std::string weight_types;  // for people: "Q4_1 with Q6_K", most bytes first
  Config config;
  std::map<std::string, WeightPtr> weights;
  std::shared_ptr<const ModelFile> file;       // owns the bytes of the weights
  std::shared_ptr<const Tokenizer> tokenizer;  // null: the file has none
  std::string tokenizer_missing;               // why

  WeightPtr find(const std::string& name) const;
};

// The last place that can be surprised by a file: wrong or missing keys, tensors, shapes,
// unsupported parts.
Result<Model> load_model(const std::filesystem::path& path);

// Typed reads of metadata, with the key, what was found and what was expected in the message.
class MetadataReader {
 public:
  explicit MetadataReader(const std::map<std::string, MetadataValue>& metadata)
      : metadata_(metadata) {}
  bool has(const std::string& key) const { return metadata_.contains(key); }
  Result<size_t> count(const std::string& key) const;  // 0 … 2^31
  Result<size_t> count_or(const std::string& key, size_t fallback) const;
  Result<double> number_or(const std::string& key, double fallback) const;
  Result<double> number(const std::string& key) const;
  Result<std::string> text(const std::string& key) const;
  Result<std::string> text_or(const std::string& key, std::string fallback) const;
  Result<std::optional<bool>> flag(const std::string& key) const;
  Result<std::vector<std::string>> texts(const std::string& key) const;
  Result<std::vector<int32_t>> integers(const std::string& key) const;

 private:
  const MetadataValue* find(const std::string& key) const;
  const std::map<std::string, MetadataValue>& metadata_;
};

}  // namespace plumb
