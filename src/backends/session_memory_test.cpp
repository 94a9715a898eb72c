// SPDX-License-Identifier: Apache-2.0
#include "backends/session_memory.h"

#include <gtest/gtest.h>

namespace plumb {
namespace {

// 1000 bytes for each position in f32, half of it in f16, a quarter in q8_0.
class SizedBackend : public Backend {
 public:
  std::string name() const override { return "sized"; }
  std::string level() const override { return ""; }
  Arithmetic arithmetic(const Step&) const override { return {}; }
  Result<std::unique_ptr<Session>> open(const Model&, const Plan&, const SessionOptions&,
                                        Threads&) const override {
    return fail(ErrorCode::Usage, "not asked for");
  }
  uint64_t session_bytes(const Model&, const Plan&, const SessionOptions& options) const override {
    const uint64_t each = options.kv_cache == KvType::F32   ? 1000
                          : options.kv_cache == KvType::F16 ? 500
                                                            : 250;
    return each * options.capacity;
  }
};

std::string refusal(size_t capacity, KvType type, uint64_t available) {
  const auto use = check_memory(SizedBackend(), Model{}, Plan{}, {capacity, type}, available);
  return use ? std::string() : use.error().message;
}

TEST(CheckMemory, LetsPassWhatFits) {
  EXPECT_EQ(refusal(10, KvType::F32, 10'000), "");
  EXPECT_EQ(refusal(10, KvType::F32, kMemoryUnknown), "");
  const auto use = check_memory(SizedBackend(), Model{}, Plan{}, {4, KvType::F16}, 9999);
  ASSERT_TRUE(use.has_value());
  EXPECT_EQ(use->session, 2000U);
  EXPECT_EQ(use->needed(), 2000U);
}

TEST(CheckMemory, SaysWhatWouldFit) {
  EXPECT_EQ(
      refusal(10, KvType::F32, 9'999),
      "a context of 10 tokens needs 10.0 kB beside the model's 0 bytes, 10.0 kB are free: use "
      "--kv f16 (5.00 kB) or at most 9 tokens");
  EXPECT_TRUE(refusal(10, KvType::F32, 3'000)
                  .ends_with("3.00 kB are free: use --kv q8_0 (2.50 kB) or at most 3 tokens"));
  EXPECT_TRUE(refusal(10, KvType::F32, 2'000).ends_with("use at most 2 tokens"));
  EXPECT_TRUE(refusal(10, KvType::Q8_0, 2'000).ends_with("use at most 8 tokens"));
  EXPECT_TRUE(refusal(10, KvType::Q8_0, 20).ends_with("use a smaller model"));
}

TEST(CheckMemory, ASumBeyond64BitsIsTooMuch) {
  EXPECT_EQ((MemoryUse{UINT64_MAX, 5, 0}).needed(), UINT64_MAX);
}

}  // namespace
}  // namespace plumb
