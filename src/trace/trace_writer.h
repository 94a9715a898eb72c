// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "trace/trace.h"

namespace plumb {

// What a trace will hold, known before the run.
struct TraceLayout {
  Provenance provenance;
  std::vector<int32_t> tokens;
  size_t prompt = 0;
  std::vector<SafetensorsEntry> steps;  // F32 or F64; the first dimension is tokens.size()
};

// Writes a trace in place: all sizes are fixed at the start and the space is taken at once, so a
// full disk is an error before the run and not after it. A file is written as NAME.partial and gets
// its name in finish(): a run that dies leaves nothing that could be taken for a whole trace.
class TraceWriter {
 public:
  static Result<std::unique_ptr<TraceWriter>> to_file(const std::filesystem::path& path,
                                                      TraceLayout layout);
  static Result<std::unique_ptr<TraceWriter>> to_memory(std::string label, TraceLayout layout);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Index of a step for write(), or nothing if it is not recorded.
  std::optional<size_t> find(const std::string& step) const;
  // Values of whole rows from position `first` on, in the dtype of the layout; rows come in order,
  // none twice.
  void write(size_t step, size_t first, std::span<const float> values);
  void write(size_t step, size_t first, std::span<const double> values);
  // Gives the file its name. Fails unless every value of every step was written.
  Result<void> finish();
  // finish() for a trace in memory, which then can be read.
  Result<Trace> finish_in_memory();
  uint64_t size_bytes() const;

 private:
  struct Mapping;
  TraceWriter() = default;
  Result<void> start(TraceLayout layout, int fd);
  void write_bytes(size_t step, size_t first, std::span<const std::byte> bytes, size_t count);
  Result<void> check_complete() const;

  std::string label_;
  std::filesystem::path path_, partial_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t> index_;
  std::vector<uint64_t> written_, row_size_;
  std::shared_ptr<Mapping> mapping_;
};

// Writes a trace that is in memory, and beside it tensors that are no steps. The same care: PATH is
// never half a trace.
Result<void> write_trace(const std::filesystem::path& path, const Trace& trace,
                         std::span<const SafetensorsTensor> others);

}  // namespace plumb
