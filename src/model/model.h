// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "formats/model_file.h"
#include "model/config.h"
#include "tokenizer/tokenizer.h"

namespace plumb {

// A weight matrix (rows = outputs, columns = inputs) or, with one row, a vector. The experts of a
// layer are several matrices of one shape, one behind the other.
struct Weight {
  std::string name;  // GGUF's: "blk.0.attn_q.weight"
  DType dtype = DType::F32;
  size_t rows = 0, columns = 0;
  size_t matrices = 1;
  std::span<const std::byte> bytes;
  std::vector<std::byte> storage;  // of a weight that lies in no file as it is used

  // Counted through all matrices.
  const std::byte* row(size_t index) const {
    return bytes.data() + index * bytes_of(dtype, columns);
  }
  size_t count() const { return matrices * rows * columns; }
  bool is_vector() const { return rows == 1 && matrices == 1; }
  std::vector<float> values() const;  // all of them, dequantized
};
using WeightPtr = std::shared_ptr<const Weight>;

// Some rows of a weight as a weight of its own: q in a fused qkv. The whole must live on.
WeightPtr rows_of(const WeightPtr& whole, size_t first, size_t count);

// A model file with its meaning: shapes are checked, everything the plan needs is there.
struct Model {
  std::string path, sha256;
  std::string weight_types;  // for people: "Q4_1 with Q6_K", most bytes first
  Config config;
  std::map<std::string, WeightPtr> weights;
  // The file has the rows of q and k in halves (Hugging Face's order); here they are neighbours.
  bool rope_rows_reordered = false;
  std::shared_ptr<const ModelFile> file;       // owns the bytes of the weights
  std::shared_ptr<const Tokenizer> tokenizer;  // null: the file has none
  std::string tokenizer_missing;               // why

  WeightPtr find(const std::string& name) const;
};

// The last place that can be surprised by a file: wrong or missing keys, tensors, shapes,
// unsupported parts.
Result<Model> load_model(const std::filesystem::path& path);

}  // namespace plumb
