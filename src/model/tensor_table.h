// SPDX-License-Identifier: Apache-2.0
// Which tensors an architecture has, in which shapes, and under which names each format holds them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_file.h"
#include "model/hyperparameters.h"

namespace plumb {

// What the dimensions of shapes are.
enum class Size : uint8_t {
  Width,
  Vocabulary,
  Context,
  Heads,
  HeadDim,
  QueryRows,   // heads · head_dim
  KeyRows,     // kv_heads · head_dim
  ValueRows,   // kv_heads · value_dim
  QkvRows,     // the three together
  MixedWidth,  // heads · value_dim: what the output projection reads
  Ffn,
  TwoFfn,  // gate and up in one matrix
  Experts,
  ExpertFfn,
  SharedFfn,
  HalfRope,  // one value for each pair that RoPE turns
  KvHeads,
  // Low-rank attention.
  QueryRank,
  KvRank,
  KvRankRope,  // kv_rank and the part of a key with RoPE
  PlainDim,    // the part of a head without RoPE
  ValueDim,
  KeyValueRows,  // heads · (plain part + value_dim)
};

enum class Need : uint8_t {
  Never,  // there is no such tensor
  Optional,
  Required,
  UnlessTied,
  InGguf,           // the same, but llama.cpp has no tied form: a GGUF must have it
  IfAttentionBias,  // as config.json's attention_bias says; optional if the file does not say
  IfMlpBias,
};

// The layers that have a tensor.
enum class Where : uint8_t { All, Dense, Experts, FullQuery, LowRankQuery, Absorbed, Joined };

// How a tensor of GGUF comes from what another file holds.
enum class Form : uint8_t {
  Whole,
  Transposed,        // [in, out]: GPT-2's Conv1D
  Halves,            // q, k: pairs (i, i + n/2) of a head become neighbours (2i, 2i + 1)
  MinusOne,          // a norm's weight stored less 1
  QkvByHead,         // q, k, v of head 0, then of head 1…
  QkvByGroup,        // Falcon: the queries of a group, their key, their value
  Stacked,           // one tensor for each expert or head; "[]" is its number
  FirstHalf,         // of [experts, gate and up, in]
  SecondHalf,        // …
  EvenTransposed,    // of [experts, in, gate and up in turn]
  OddTransposed,     // …
  Even,              // of [experts, gate and up in turn]
  Odd,               // …
  EachTransposed,    // [experts, in, out]
  Fp4,               // MXFP4 as bytes of nibbles and bytes of exponents in two tensors
  Fp4Even,           // … of gate and up in turn
  Fp4Odd,            // …
  QueryPart,         // rows of a fused qkv
  KeyPart,           // …
  ValuePart,         // …
  JoinedQkv,         // three tensors; "*" is q, k or v
  JoinedTransposed,  // three as [in, out]
  AbsorbedKey,       // of kv_b [heads · (plain + value), rank]: each head's key part, transposed
  AbsorbedValue,     // of kv_b: each head's value part
};

struct Source {
  std::string pattern;  // "{}" is the layer
  Form form = Form::Whole;
};

struct TensorRow {
  std::string name;  // GGUF's: "blk.{}.attn_q.weight"
  std::vector<Size> shape;
  Need need = Need::Required;
  Where where = Where::All;
  // Optional tensors of one group stand or fall together (the biases of q, k and v); 0: no group.
  int group = 0;
  std::vector<Source> gguf;  // `name` itself, then other forms that a GGUF may have
  std::vector<Source> hf;    // in the files of transformers
  std::vector<Source> apr;   // what the APR importer makes of them, where it is something else
  bool per_layer() const { return name.starts_with("blk."); }
};

// The rows of an architecture by GGUF's name of it; null: it is not known here.
const std::vector<TensorRow>* tensor_rows(std::string_view architecture);
bool architecture_known(const Hyperparameters& h);

// A dimension, nothing if the metadata does not give it or it does not fit.
std::optional<uint64_t> size_of(Size size, const Hyperparameters& h, size_t layer);
bool applies(Where where, const Hyperparameters& h, size_t layer);

// Where a row's tensor of one layer is in a file.
struct TensorMatch {
  const TensorRow* row = nullptr;
  size_t layer = 0;
  Form form = Form::Whole;
  std::vector<const TensorEntry*> sources;  // in order; those that are there
  std::vector<std::string> absent;          // names of the missing ones, if some of several are
  bool found() const { return !sources.empty() && absent.empty(); }
};

struct TensorMatches {
  // One for each row and each layer that has any tensor; row by row.
  std::vector<TensorMatch> matches;
  std::vector<const TensorEntry*> others;   // tensors that no row uses
  std::vector<const TensorEntry*> doubles;  // of two spellings of one name the second
  size_t layers = 0;                        // as the metadata says, or as many as are found
  std::vector<size_t> layers_found;         // in order, below `layers`
};
TensorMatches match_tensors(const ModelFile& file, const Hyperparameters& h);

// Whose names a file uses. An APR may have GGUF's, or the importer's.
enum class Naming : uint8_t { Gguf, HuggingFace, Apr };
Naming naming_of(const ModelFile& file);
// The name under which such a file would hold a row's tensor, for messages.
std::string expected_name(Naming naming, const TensorRow& row, size_t layer);
// The shape of each source if the whole has `shape`; nothing if that cannot be.
std::optional<std::vector<uint64_t>> source_shape(Form form, std::vector<uint64_t> shape,
                                                  const Hyperparameters& h, size_t layer,
                                                  size_t source);
// A name without the prefixes that differ from file to file ("model.", "transformer.").
std::string_view bare_name(std::string_view name);
// The number behind "layers.", "h." or "blk.", if there is one.
std::optional<size_t> layer_of(std::string_view name);
// Buffers that some files hold and no computation reads: rotary_emb.inv_freq, attn.masked_bias.
bool harmless(std::string_view name);

struct TensorIssue {
  enum Kind { Missing, Extra, WrongShape, Inconsistent } kind;
  std::string tensor;  // as this file would name it
  std::string text;
  bool serious = true;  // the model cannot be what the metadata says
};

// What is missing, superfluous, of a wrong shape or in some layers only. Empty for an architecture
// that is not known.
std::vector<TensorIssue> check_tensors(const ModelFile& file, const Hyperparameters& h);

}  // namespace plumb
