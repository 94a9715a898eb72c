// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/hyperparameters.h"
#include "model/key_reader.h"

namespace plumb {

// Reads the keys that a plan needs under the names of each format: GGUF's behind "<architecture>."
// (null: a GGUF has no such key), transformers' in the order in which they count. Numbers come
// rounded to float, which is what a GGUF holds: both formats then compute the same bits.
class ConfigReader {
 public:
  using Names = std::initializer_list<const char*>;

  ConfigReader(const ModelFile& file, const Hyperparameters& h);

  std::optional<double> number(const char* gguf, Names config);
  std::optional<size_t> whole(const char* gguf, Names config);  // zero counts as absent
  std::optional<bool> flag(const char* gguf, Names config);
  std::optional<std::string> text(const char* gguf, Names config);
  std::optional<std::vector<double>> numbers(const char* gguf, Names config);
  std::optional<std::vector<std::string>> texts(const char* gguf, Names config);

  // A switch that must be as it is done here: false or absent, or `expected`.
  void refuse_flag(const char* gguf, Names config, bool expected = false);
  // The activation by its name in config.json; a GGUF does not say it: `fallback`.
  Activation activation(Names config, Activation fallback);
  // The layers with a window, if the file lists them: "sliding_attention" in layer_types, true in a
  // GGUF's attention.sliding_window_pattern.
  std::optional<std::vector<bool>> sliding_layers();

  bool is_gguf() const { return file_.format == FileFormat::Gguf; }
  const ModelFile& file() const { return file_; }
  const Hyperparameters& sizes() const { return h_; }
  void problem(std::string text) { problems_.push_back(std::move(text)); }
  const std::vector<std::string>& problems() const { return problems_; }
  // A key that changes the result, is not neutral, and was not looked at: its name and value.
  std::optional<std::string> ignored_key() const;

 private:
  template <class Read>
  auto read(const char* gguf, Names config, Read read);

  const ModelFile& file_;
  const Hyperparameters& h_;
  std::vector<std::string> problems_;
  KeyReader keys_;
};

// Everything that a plan needs, or the first thing that is wrong or not done here, by its key.
Result<Config> read_config(const ModelFile& file, const Hyperparameters& h);

}  // namespace plumb
