// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/cpu_backend.h"

#include <fmt/format.h>

#include "backends/cpu/cpu_session.h"

namespace plumb {
namespace {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(cpu::Kernels kernels) : kernels_(kernels) {}
  std::string name() const override { return "cpu"; }
  std::string level() const override { return kernels_.name; }

  Arithmetic arithmetic(const Step& step) const override {
    Arithmetic a;
    if (step.weight) a.weights = info(step.weight->dtype).short_name;
    if (is_product(step.op) && cpu::has_int8_kernel(step.weight->dtype)) a.activations = "int8/32";
    return a;
  }

  Result<std::unique_ptr<Session>> open(const Model& model, const Plan& plan,
                                        const SessionOptions& options,
                                        Threads& threads) const override {
    return cpu::open_session(kernels_, model, plan, options, threads);
  }
  uint64_t session_bytes(const Model&, const Plan& plan,
                         const SessionOptions& options) const override {
    return cpu::session_bytes(plan, options);
  }

 private:
  cpu::Kernels kernels_;
};

}  // namespace

std::vector<std::string> cpu_levels() {
  std::vector<std::string> levels = {"scalar"};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) levels.emplace_back("avx2");
#endif
  return levels;
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const std::string& level) {
  const auto levels = cpu_levels();
  const std::string chosen = level == "best" ? levels.back() : level;
  if (std::find(levels.begin(), levels.end(), chosen) == levels.end()) {
    std::string known;
    for (const auto& name : levels) known += (known.empty() ? "" : ", ") + name;
    return fail(
        ErrorCode::Usage,
        fmt::format("CPU level '{}' is not one that this processor has ({})", level, known));
  }
#if defined(__x86_64__)
  if (chosen == "avx2") return std::make_unique<CpuBackend>(cpu::avx2_kernels());
#endif
  return std::make_unique<CpuBackend>(cpu::scalar_kernels());
}

}  // namespace plumb
