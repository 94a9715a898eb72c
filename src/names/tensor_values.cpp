// SPDX-License-Identifier: Apache-2.0
#include "names/tensor_values.h"

#include <fmt/format.h>

#include <cstring>

#include "core/dtype.h"
#include "quant/values.h"

namespace plumb {
namespace {

template <class T>
std::vector<double> widened(const TensorView& view) {
  std::vector<double> out(view.bytes.size() / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, view.bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<double>(value);
  }
  return out;
}

}  // namespace

Result<std::vector<double>> values_of(const TensorView& view) {
  switch (view.dtype) {
    case DType::F64: return widened<double>(view);
    case DType::F32: return widened<float>(view);
    case DType::I64: return widened<int64_t>(view);
    case DType::I32: return widened<int32_t>(view);
    default: break;
  }
  const auto count = element_count(view.shape);
  if (!count || view.bytes.size() != bytes_of(view.dtype, *count))
    return fail(ErrorCode::Corrupt, fmt::format("a tensor of shape {} has {} bytes",
                                                to_text(view.shape), view.bytes.size()));
  std::vector<float> values(*count);
  read_values(view, 0, values.size(), values.data());
  return std::vector<double>(values.begin(), values.end());
}

}  // namespace plumb
