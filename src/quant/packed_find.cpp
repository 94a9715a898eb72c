// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "quant/packed_checks.h"

namespace plumb {
namespace {

using Tensors = std::map<std::string, TensorView>;

constexpr std::string_view kMethods[] = {
    "", "gptq", "awq", "bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"};

// What follows the module's name, and the matrix that it is a part of.
struct Marker {
  std::string_view suffix;
  PackedScheme scheme;
};

// One part that each matrix of a scheme has. GPTQ and AWQ share theirs; weight_scale has to be
// looked at with its weight.
constexpr Marker kMarkers[] = {
    {".qweight", PackedScheme::Gptq},
    {".quant_state.bitsandbytes__nf4", PackedScheme::BnbNf4},
    {".quant_state.bitsandbytes__fp4", PackedScheme::BnbFp4},
    {".SCB", PackedScheme::BnbInt8},
    {".weight_packed", PackedScheme::CompressedInt},
    {".weight_scale", PackedScheme::Float8},
    {".weight_scale_inv", PackedScheme::Float8},
};

// Parts by their names in make_packed().
std::vector<std::string_view> parts_of(PackedScheme scheme) {
  switch (scheme) {
    case PackedScheme::Gptq: return {"qweight", "qzeros", "scales", "g_idx"};
    case PackedScheme::Awq: return {"qweight", "qzeros", "scales"};
    case PackedScheme::BnbNf4:
    case PackedScheme::BnbFp4:
      return {"weight",
              "weight.absmax",
              "weight.quant_map",
              "weight.nested_absmax",
              "weight.nested_quant_map",
              scheme == PackedScheme::BnbNf4 ? "weight.quant_state.bitsandbytes__nf4"
                                             : "weight.quant_state.bitsandbytes__fp4"};
    case PackedScheme::BnbInt8: return {"weight", "SCB", "weight_format"};
    case PackedScheme::Float8:
    case PackedScheme::ScaledInt8:
      return {"weight", "weight_scale", "weight_scale_inv", "weight_zero_point"};
    case PackedScheme::CompressedInt:
      return {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"};
  }
  return {};
}

// Names that are parts of packed matrices and nothing else.
constexpr std::string_view kOnlyParts[] = {".qweight",
                                           ".qzeros",
                                           ".g_idx",
                                           ".absmax",
                                           ".quant_map",
                                           ".nested_absmax",
                                           ".nested_quant_map",
                                           ".quant_state.bitsandbytes__nf4",
                                           ".quant_state.bitsandbytes__fp4",
                                           ".SCB",
                                           ".weight_format",
                                           ".weight_packed",
                                           ".weight_scale",
                                           ".weight_scale_inv",
                                           ".weight_shape",
                                           ".weight_zero_point",
                                           ".weight_g_idx"};

// One matrix before its parts are looked at.
struct Found {
  std::string stem;    // in front of the parts' names: "model.layers.0.mlp.up_proj."
  std::string matrix;  // "model.layers.0.mlp.up_proj.weight"
  PackedScheme scheme;
};

Result<PackedScheme> scheme_of_qweight(const std::string& name, const PackedConfig& config) {
  if (config.method == "gptq") return PackedScheme::Gptq;
  if (config.method == "awq") return PackedScheme::Awq;
  return fail(ErrorCode::Unsupported,
              fmt::format("'{}' is of GPTQ or AWQ, which quantization_config has to say as "
                          "quant_method; it says '{}'",
                          name, config.method));
}

// A weight with scales beside it, or nothing if the scales are those of another scheme.
Result<std::optional<PackedScheme>> scheme_of_scale(const Tensors& tensors, const std::string& name,
                                                    const std::string& module) {
  if (tensors.contains(module + ".weight_packed")) return std::nullopt;
  const auto weight = tensors.find(module + ".weight");
  if (weight == tensors.end())
    return fail(ErrorCode::Corrupt, fmt::format("'{}' stands without '{}.weight'", name, module));
  switch (weight->second.dtype) {
    case DType::F8_E4M3:
    case DType::F8_E5M2: return PackedScheme::Float8;
    case DType::I8: return PackedScheme::ScaledInt8;
    default:
      return fail(ErrorCode::Unsupported,
                  fmt::format("'{}.weight' is {} with scales beside it, expected F8_E4M3, F8_E5M2 "
                              "or I8",
                              module, text_of(weight->second)));
  }
}

Result<std::optional<Found>> look_at(const Tensors& tensors, const std::string& name,
                                     const PackedConfig& config) {
  const auto* marker = std::find_if(std::begin(kMarkers), std::end(kMarkers), [&](const Marker& m) {
    return name.size() > m.suffix.size() && name.ends_with(m.suffix);
  });
  if (marker == std::end(kMarkers)) return std::nullopt;
  const std::string module = name.substr(0, name.size() - marker->suffix.size());
  Found found = {.stem = module + ".", .matrix = module + ".weight", .scheme = marker->scheme};
  switch (marker->scheme) {
    case PackedScheme::Gptq: {
      TRY_ASSIGN(found.scheme, scheme_of_qweight(name, config));
      break;
    }
    case PackedScheme::Float8: {
      TRY_ASSIGN(const auto scheme, scheme_of_scale(tensors, name, module));
      if (!scheme) return std::nullopt;
      found.scheme = *scheme;
      break;
    }
    case PackedScheme::BnbNf4:
    case PackedScheme::BnbFp4: found.matrix = found.stem = module; break;  // "….weight" itself
    default: break;
  }
  return found;
}

// bitsandbytes names its parts after the parameter, whatever its name is.
std::string file_name(const Found& found, std::string_view part) {
  if (found.scheme != PackedScheme::BnbNf4 && found.scheme != PackedScheme::BnbFp4)
    return found.stem + std::string(part);
  return found.stem + std::string(part.substr(std::string_view("weight").size()));
}

Result<PackedWeight> assemble(const Tensors& tensors, const Found& found,
                              const PackedConfig& config) {
  Tensors parts;
  std::vector<std::string> sources;
  for (const std::string_view part : parts_of(found.scheme)) {
    const auto tensor = tensors.find(file_name(found, part));
    if (tensor == tensors.end()) continue;
    parts.emplace(part, tensor->second);
    sources.push_back(tensor->first);
  }
  if (!parts.contains("weight") && tensors.contains(found.matrix))
    return fail(ErrorCode::Corrupt, fmt::format("'{}' is there both packed ({}) and plain",
                                                found.matrix, packed_name(found.scheme)));
  TRY_ASSIGN(PackedWeight weight,
             make_packed(found.scheme, found.matrix, std::move(parts), config));
  weight.sources = std::move(sources);
  return weight;
}

Result<void> check_method(const PackedConfig& config) {
  if (std::find(std::begin(kMethods), std::end(kMethods), config.method) != std::end(kMethods))
    return {};
  return fail(ErrorCode::Unsupported,
              fmt::format("quant_method '{}' is not supported, but gptq, awq, bitsandbytes, fp8, "
                          "fbgemm_fp8, compressed-tensors and modelopt are",
                          config.method));
}

bool is_code_type(DType dtype) {
  return dtype == DType::F8_E4M3 || dtype == DType::F8_E5M2 || dtype == DType::I8 ||
         dtype == DType::U8 || dtype == DType::I32;
}

// What no matrix has used must be able to stand for itself.
Result<void> check_rest(const Tensors& tensors, const std::set<std::string>& used,
                        const PackedConfig& config) {
  for (const auto& [name, view] : tensors) {
    if (used.contains(name)) continue;
    if (!config.method.empty() && is_code_type(view.dtype) && name.ends_with(".weight"))
      return fail(ErrorCode::Corrupt,
                  fmt::format("'{}' is {}, but no scales are beside it although the checkpoint is "
                              "quantized ({})",
                              name, text_of(view), config.method));
    for (const std::string_view suffix : kOnlyParts)
      if (name.ends_with(suffix))
        return fail(ErrorCode::Corrupt,
                    fmt::format("'{}' is a part of a packed matrix, but the other parts are not "
                                "there",
                                name));
    if (view.dtype == DType::U32 && name.ends_with(".weight") &&
        tensors.contains(name.substr(0, name.size() - 6) + "scales"))
      return fail(ErrorCode::Unsupported,
                  fmt::format("'{}' is {} with scales beside it: MLX's packing is not supported",
                              name, text_of(view)));
  }
  return {};
}

}  // namespace

Result<std::vector<PackedWeight>> find_packed(const Tensors& tensors, const PackedConfig& config) {
  TRY(check_method(config));
  std::map<std::string, PackedWeight> weights;  // in the order of the names of the matrices
  std::set<std::string> used;
  for (const auto& [name, view] : tensors) {
    TRY_ASSIGN(const auto found, look_at(tensors, name, config));
    if (!found || weights.contains(found->matrix)) continue;
    TRY_ASSIGN(PackedWeight weight, assemble(tensors, *found, config));
    used.insert(weight.sources.begin(), weight.sources.end());
    weights.emplace(found->matrix, std::move(weight));
  }
  TRY(check_rest(tensors, used, config));
  std::vector<PackedWeight> list;
  for (auto& [name, weight] : weights) list.push_back(std::move(weight));
  return list;
}

}  // namespace plumb
