// SPDX-License-Identifier: Apache-2.0
#include "trace/trace_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace plumb {
namespace {

using nlohmann::ordered_json;

ordered_json head_of(const Provenance& provenance, const std::vector<int32_t>& tokens,
                     size_t prompt) {
  ordered_json head;
  if (!tokens.empty()) {
    head["tokens"] = tokens;
    head["prompt"] = prompt;
  }
  head["engine"] = provenance.engine;
  head["model"] = provenance.model;
  for (const auto& [pattern, row] : provenance.arithmetic) {
    auto& out = head["arithmetic"][pattern];
    out = {{"weights", row.weights},
           {"activations", row.activations},
           {"accumulate", row.accumulate},
           {"output", row.output}};
    if (row.attention != "f32") out["attention"] = row.attention;
    if (row.functions != "f32") out["functions"] = row.functions;
    if (row.inside != "f32") out["inside"] = row.inside;
  }
  head["kv_cache"] = provenance.kv_cache;
  head["created"] = provenance.created;
  return head;
}

std::map<std::string, std::string> metadata_of(const ordered_json& head) {
  return {{"plumb.trace", "1"},
          {"plumb", head.dump(-1, ' ', false, ordered_json::error_handler_t::replace)}};
}

}  // namespace

struct TraceWriter::Mapping {
  std::byte* data = nullptr;
  size_t size = 0;
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (data != nullptr) munmap(data, size);
  }
};

Result<void> TraceWriter::start(TraceLayout layout, int fd) {
  CHECK(!layout.tokens.empty());
  entries_ = std::move(layout.steps);
  entries_.insert(entries_.begin(), {"tokens", DType::I32, {layout.tokens.size()}});
  const std::string header = safetensors_header(
      entries_, metadata_of(head_of(layout.provenance, layout.tokens, layout.prompt)));
  const auto& last = entries_.back();
  mapping_ = std::make_shared<Mapping>();
  mapping_->size = last.offset + bytes_of(last.dtype, *element_count(last.shape));
  if (fd >= 0) {
    if (const int trouble = posix_fallocate(fd, 0, static_cast<off_t>(mapping_->size));
        trouble != 0)
      return fail(ErrorCode::Io, fmt::format("cannot take {} bytes for the trace: {}",
                                             mapping_->size, std::strerror(trouble)));
  }
  // All of it will be written: with its pages there from the start, a run does not stop for them.
  constexpr size_t kMostAtOnce = size_t{64} << 20;
  const int populate = mapping_->size <= kMostAtOnce ? MAP_POPULATE : 0;
  void* data = mmap(nullptr, mapping_->size, PROT_READ | PROT_WRITE,
                    populate | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), fd, 0);
  if (data == MAP_FAILED)
    return fail(ErrorCode::Io, fmt::format("cannot map {} bytes for the trace: {}", mapping_->size,
                                           std::strerror(errno)));
  mapping_->data = static_cast<std::byte*>(data);
  std::memcpy(mapping_->data, header.data(), header.size());
  std::memcpy(mapping_->data + entries_[0].offset, layout.tokens.data(),
              layout.tokens.size() * sizeof(int32_t));
  for (size_t i = 0; i < entries_.size(); ++i) {
    index_[entries_[i].name] = i;
    written_.push_back(i == 0 ? layout.tokens.size() : 0);
    row_size_.push_back(i == 0 ? 1 : *element_count(entries_[i].shape) / layout.tokens.size());
  }
  return {};
}

Result<std::unique_ptr<TraceWriter>> TraceWriter::to_file(const std::filesystem::path& path,
                                                          TraceLayout layout) {
  std::unique_ptr<TraceWriter> writer(new TraceWriter);
  writer->path_ = path;
  writer->partial_ = path.string() + ".partial";
  const int fd = ::open(writer->partial_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    auto partial = std::move(writer->partial_);
    return fail(ErrorCode::Io,
                fmt::format("{}: cannot write: {}", partial.string(), std::strerror(errno)));
  }
  auto started = writer->start(std::move(layout), fd);
  ::close(fd);
  if (!started) return std::unexpected(std::move(started.error()).within(path.string()));
  return writer;
}

Result<std::unique_ptr<TraceWriter>> TraceWriter::to_memory(std::string label, TraceLayout layout) {
  std::unique_ptr<TraceWriter> writer(new TraceWriter);
  writer->label_ = std::move(label);
  TRY(writer->start(std::move(layout), -1));
  return writer;
}

TraceWriter::~TraceWriter() {
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

std::optional<size_t> TraceWriter::find(const std::string& step) const {
  const auto found = index_.find(step);
  return found == index_.end() ? std::nullopt : std::optional(found->second);
}

void TraceWriter::write_bytes(size_t step, size_t first, std::span<const std::byte> bytes,
                              size_t count) {
  const size_t begin = first * row_size_[step];
  CHECK(begin ==
        written_[step]);  // in order, so that the count of values says that each was written
  CHECK(begin + count <= *element_count(entries_[step].shape) &&
        bytes.size() == bytes_of(entries_[step].dtype, count));
  std::memcpy(mapping_->data + entries_[step].offset + bytes_of(entries_[step].dtype, begin),
              bytes.data(), bytes.size());
  written_[step] += count;
}

void TraceWriter::write(size_t step, size_t first, std::span<const float> values) {
  CHECK(entries_[step].dtype == DType::F32);
  write_bytes(step, first, std::as_bytes(values), values.size());
}

void TraceWriter::write(size_t step, size_t first, std::span<const double> values) {
  CHECK(entries_[step].dtype == DType::F64);
  write_bytes(step, first, std::as_bytes(values), values.size());
}

Result<void> TraceWriter::check_complete() const {
  for (size_t i = 0; i < entries_.size(); ++i)
    if (written_[i] != *element_count(entries_[i].shape))
      return fail(ErrorCode::Io,
                  fmt::format("step '{}' is incomplete: {} of {} values", entries_[i].name,
                              written_[i], *element_count(entries_[i].shape)));
  return {};
}

Result<void> TraceWriter::finish() {
  TRY(check_complete());
  if (::rename(partial_.c_str(), path_.c_str()) != 0)
    return fail(ErrorCode::Io, fmt::format("{}: cannot rename to its name: {}", partial_.string(),
                                           std::strerror(errno)));
  partial_.clear();
  return {};
}

Result<Trace> TraceWriter::finish_in_memory() {
  TRY(check_complete());
  return parse_trace({mapping_->data, mapping_->size}, mapping_, label_);
}

uint64_t TraceWriter::size_bytes() const { return mapping_->size; }

Result<void> write_trace(const std::filesystem::path& path, const Trace& trace,
                         std::span<const SafetensorsTensor> others) {
  ordered_json head = head_of(trace.provenance, trace.tokens, trace.prompt);
  std::vector<SafetensorsTensor> tensors;
  const auto bytes_of_ids = [](const std::vector<int32_t>& ids) {
    return std::as_bytes(std::span(ids));
  };
  if (!trace.tokens.empty())
    tensors.push_back({"tokens", {DType::I32, {trace.tokens.size()}, bytes_of_ids(trace.tokens)}});
  for (const auto& [name, step] : trace.steps) {
    tensors.push_back({name, step.view});
    tensors.push_back(
        {"positions:" + name, {DType::I32, {step.positions.size()}, bytes_of_ids(step.positions)}});
    if (step.precision > 0 || step.elided)
      head["precision"][name] = {{"within", step.precision}, {"elided", step.elided}};
  }
  for (const auto& [name, entry] : trace.statistics) {
    tensors.push_back({name + ".stats", entry.statistics});
    if (entry.sketch) tensors.push_back({name + ".sketch", *entry.sketch});
    if (!trace.steps.contains(name))
      tensors.push_back({"positions:" + name,
                         {DType::I32, {entry.positions.size()}, bytes_of_ids(entry.positions)}});
  }
  tensors.insert(tensors.end(), others.begin(), others.end());
  return write_safetensors(path, metadata_of(head), tensors);
}

}  // namespace plumb
