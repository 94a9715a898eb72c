// SPDX-License-Identifier: Apache-2.0
#include "backends/session_memory.h"

#include <fmt/format.h>

#include <algorithm>

namespace plumb {
namespace {

// The most positions whose session takes at most `room` bytes; 0: not even one does.
size_t most_positions(const Backend& backend, const Model& model, const Plan& plan,
                      SessionOptions options, uint64_t room) {
  size_t fits = 0;
  size_t too_many = options.capacity;
  while (fits + 1 < too_many) {
    options.capacity = fits + (too_many - fits) / 2;
    if (backend.session_bytes(model, plan, options) <= room) fits = options.capacity;
    else too_many = options.capacity;
  }
  return fits;
}

// What would fit, for the end of the message.
std::string advice(const Backend& backend, const Model& model, const Plan& plan,
                   const SessionOptions& options, uint64_t room) {
  std::string text;
  for (const KvType type : {KvType::F16, KvType::Q8_0}) {
    const SessionOptions smaller{options.capacity, type};
    const uint64_t bytes = backend.session_bytes(model, plan, smaller);
    if (bytes > room || bytes >= backend.session_bytes(model, plan, options)) continue;
    text = fmt::format("use --kv {} ({})", to_text(type), format_bytes(bytes));
    break;
  }
  const size_t most = most_positions(backend, model, plan, options, room);
  if (most == 0) return text.empty() ? "use a smaller model" : text;
  return fmt::format("{}{}at most {} tokens", text, text.empty() ? "use " : " or ", most);
}

}  // namespace

Result<MemoryUse> check_memory(const Backend& backend, const Model& model, const Plan& plan,
                               const SessionOptions& options, uint64_t available) {
  const MemoryUse use{backend.session_bytes(model, plan, options),
                      model.file ? model.file->size_bytes() : 0, available};
  if (available == kMemoryUnknown || use.needed() <= available) return use;
  if (use.model >= available)
    return fail(ErrorCode::Unsupported,
                fmt::format("{}: the model needs {}, {} are free: use a smaller one", model.path,
                            format_bytes(use.model), format_bytes(available)));
  const uint64_t room = available - use.model;
  return fail(ErrorCode::Unsupported,
              fmt::format("a context of {} tokens needs {} beside the model's {}, {} are free: {}",
                          options.capacity, format_bytes(use.session), format_bytes(use.model),
                          format_bytes(available), advice(backend, model, plan, options, room)));
}

}  // namespace plumb
