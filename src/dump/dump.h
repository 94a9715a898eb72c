// SPDX-License-Identifier: Apache-2.0
// What another program wrote about its run, before anybody says what the names mean: tensors as the
// file has them, with the precision that the file gives. src/names turns them into steps.
#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/tensor.h"

namespace plumb {

struct DumpTensor {
  std::string name;       // as the engine writes it
  std::string operation;  // what made it, in the engine's words (MUL_MAT, ROPE, …); may be empty
  size_t pass = 0;        // of the forward passes in the dump, from 0
  size_t occurrence = 0;  // of this name in its pass, from 0: Qcur-0 is a product, then a rotation
  TensorView view;        // row-major; F64 F32 F16 BF16 or an integer type, as the file has it
  // Values known only to within this (a text of 4 decimals: 5e-5); 0: as the engine had them.
  double precision = 0;
  // Values that the file leaves out are NaN in the view; then every NaN is one of them.
  bool elided = false;
  std::string source;  // the file inside a folder or an archive; empty: the dump itself
};

struct Dump {
  std::string kind;                            // "npz", "llama.cpp callback text", …
  std::string label;                           // for messages: the path
  std::vector<DumpTensor> tensors;             // in the order of the run, as far as the file tells
  std::optional<std::vector<int64_t>> tokens;  // what was fed, if the dump says so
  std::map<std::string, std::string> engine;   // name, version, …; what the dump says
  std::map<std::string, std::string> model;
  std::vector<std::string> notes;  // what a user must know: skipped parts, a warm-up pass, …
  std::vector<std::shared_ptr<const void>> owners;  // of the bytes that the views point into

  // Keeps the bytes for as long as the dump lives, and gives a view of them.
  std::span<const std::byte> keep(std::vector<std::byte> bytes);
};

// Reads a file or a folder by its content, whatever its name says. Fails with Unsupported if it is
// none of the known kinds, saying what was found; with Corrupt, naming the place, if it is broken.
Result<Dump> open_dump(const std::filesystem::path& path);

}  // namespace plumb
