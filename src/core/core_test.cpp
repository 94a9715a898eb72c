// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/byte_reader.h"
#include "core/dtype.h"
#include "core/half.h"
#include "core/mapped_file.h"
#include "core/tensor.h"
#include "core/threads.h"

namespace plumb {
namespace {

// How often one run calls each index, and whether its ranges are as promised.
void expect_each_index_once(Threads& threads, size_t size, size_t grain) {
  std::vector<std::atomic<int>> calls(size);
  std::atomic<size_t> bad_ranges = 0;
  threads.run(size, grain, [&](size_t begin, size_t end) {
    if (begin >= end || end > size || begin % grain != 0) {
      ++bad_ranges;
      return;
    }
    for (size_t i = begin; i < end; ++i) calls[i].fetch_add(1, std::memory_order_relaxed);
  });
  ASSERT_EQ(bad_ranges, 0U) << threads.count() << " threads, size " << size << ", grain " << grain;
  for (size_t i = 0; i < size; ++i)
    ASSERT_EQ(calls[i], 1) << "index " << i << ", " << threads.count() << " threads, size " << size
                           << ", grain " << grain;
}

TEST(Threads, EveryIndexOnceForSizesAroundTheGrain) {
  // Guards against a row that is computed never or twice where sizes do not divide evenly.
  for (const size_t count : {1U, 2U, 3U, 5U, 8U}) {
    Threads threads(count);
    EXPECT_EQ(threads.count(), count);
    for (const size_t grain : {1U, 2U, 7U, 64U}) {
      for (const size_t times : {1U, 2U, 3U, 31U, 32U, 33U}) {
        const size_t size = grain * times;
        for (const size_t near : {size - 1, size, size + 1})
          expect_each_index_once(threads, near, grain);
      }
    }
  }
}

TEST(Threads, EveryIndexOnceInThousandsOfRunsInARow) {
  // Guards against a late thread that takes a chunk of a job that is over, or of the next one.
  Threads threads(8);  // more than the machine may have: threads are stopped at every place
  for (size_t run = 0; run < 5000; ++run) expect_each_index_once(threads, 1 + run * 7 % 131, 1);
}

TEST(Threads, ResultsAreThereWhenRunReturns) {
  // Guards against a run that returns before the last chunk is done or before others see it.
  Threads threads(4);
  std::vector<size_t> values(257);
  for (size_t run = 0; run < 3000; ++run) {
    threads.run(values.size(), 3, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) values[i] = run + i;
    });
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], run + i) << run;
  }
}

TEST(Threads, WakesAfterItSlept) {
  // Guards against a wake-up that is lost between the check and the sleep: the run would hang, or
  // the caller would do everything alone for ever.
  Threads threads(3);
  std::atomic<bool> helped = false;
  const auto caller = std::this_thread::get_id();
  for (int run = 0; run < 200 && !helped; ++run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    threads.run(64, 1, [&](size_t, size_t) {
      if (std::this_thread::get_id() != caller) helped = true;
      else std::this_thread::sleep_for(std::chrono::microseconds(100));
    });
  }
  EXPECT_TRUE(helped);
}

TEST(Threads, ZeroThreadsIsOneAndZeroSizeIsNoCall) {
  // Guards against a body that is called with an empty range, and a team of nobody.
  Threads threads(0);
  EXPECT_EQ(threads.count(), 1U);
  threads.run(0, 16, [](size_t, size_t) { ADD_FAILURE() << "called for nothing"; });
  expect_each_index_once(threads, 17, 4);
  EXPECT_GE(available_processors(), 1U);
}

TEST(Threads, StopsAtOnceInAnyState) {
  // Guards against a destructor that waits for a thread that sleeps, spins or has not begun.
  for (int i = 0; i < 200; ++i) {
    Threads threads(4);
    if (i % 2 == 0) threads.run(100, 1, [](size_t, size_t) {});
    if (i % 20 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::span<const std::byte> bytes_of_text(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(ByteReader, ReadsLittleEndianAndCounts) {
  // Guards against a value that is taken from the wrong place.
  ByteReader reader(bytes_of_text(std::string_view("\x01\x02\x03\x04xyz\xFF", 8)));
  EXPECT_EQ(reader.read<uint16_t>().value(), 0x0201);
  EXPECT_TRUE(reader.skip(2).has_value());
  EXPECT_EQ(reader.read_text(3).value(), "xyz");
  EXPECT_EQ(reader.offset(), 7U);
  EXPECT_EQ(reader.read<int8_t>().value(), -1);
  EXPECT_EQ(reader.remaining(), 0U);
  EXPECT_EQ(reader.read_text(0).value(), "");
}

TEST(ByteReader, NoReadGoesPastTheEnd) {
  // Guards against reads past the end, also where offset plus size wraps around.
  ByteReader reader(bytes_of_text("12345"));
  ASSERT_TRUE(reader.skip(2).has_value());
  const auto number = reader.read<uint32_t>();
  ASSERT_FALSE(number.has_value());
  EXPECT_EQ(number.error().code, ErrorCode::Corrupt);
  EXPECT_EQ(number.error().message, "the file ends too early: at byte 2 it needs 4 more, has 3");
  for (const uint64_t size : {uint64_t{4}, ~uint64_t{0}, ~uint64_t{0} - 1}) {
    EXPECT_FALSE(reader.read_text(size).has_value()) << size;
    EXPECT_FALSE(reader.skip(size).has_value()) << size;
  }
  EXPECT_EQ(reader.offset(), 2U);  // A failed read takes nothing.
  EXPECT_EQ(reader.read_text(3).value(), "345");
  EXPECT_FALSE(reader.read<uint8_t>().has_value());
  EXPECT_FALSE(ByteReader({}).read<uint8_t>().has_value());
}

TEST(Sha256, KnownAnswers) {
  // Guards against a file identity that no other tool can repeat. Answers: FIPS 180-4.
  EXPECT_EQ(sha256_hex(bytes_of_text("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::span<const std::byte>{}),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

class MappedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/plumb_core_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Error error_of(const std::filesystem::path& path) {
    auto file = MappedFile::open(path);
    if (!file) return file.error();
    ADD_FAILURE() << path << " was opened";
    return {};
  }

  std::filesystem::path folder_;
};

TEST_F(MappedFileTest, GivesTheBytesAndMovesThem) {
  // Guards against a mapping that ends with the object it was moved from.
  std::ofstream(folder_ / "file") << "content";
  auto opened = MappedFile::open(folder_ / "file");
  ASSERT_TRUE(opened.has_value()) << opened.error().message;
  MappedFile moved(std::move(*opened));
  EXPECT_TRUE(opened->bytes().empty());
  std::ofstream(folder_ / "other") << "other";
  moved = MappedFile::open(folder_ / "other").value();
  EXPECT_TRUE(std::ranges::equal(moved.bytes(), bytes_of_text("other")));
}

TEST_F(MappedFileTest, AnEmptyFileHasNoBytes) {
  // Guards against mmap of 0 bytes, which fails; the formats say what is wrong with an empty file.
  std::ofstream(folder_ / "empty").flush();
  const auto file = MappedFile::open(folder_ / "empty");
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_TRUE(file->bytes().empty());
}

TEST_F(MappedFileTest, SaysWhatCannotBeOpened) {
  // Guards against a folder or a missing file that passes for a broken model.
  const auto missing = error_of(folder_ / "missing");
  EXPECT_EQ(missing.code, ErrorCode::NotFound);
  EXPECT_NE(missing.message.find("No such file"), std::string::npos) << missing.message;
  const auto folder = error_of(folder_);
  EXPECT_EQ(folder.code, ErrorCode::Io);
  EXPECT_NE(folder.message.find("folder"), std::string::npos) << folder.message;
  EXPECT_NE(error_of("/dev/null").message.find("not a regular file"), std::string::npos);
}

TEST_F(MappedFileTest, APipeIsAnErrorAndNoWait) {
  // Guards against a program that waits for ever for somebody to write to the pipe.
  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  auto opened = std::async(std::launch::async, [&] { return error_of(pipe); });
  const bool waits = opened.wait_for(std::chrono::seconds(5)) != std::future_status::ready;
  EXPECT_FALSE(waits);
  if (waits) std::ofstream(pipe).flush();  // Lets it go.
  EXPECT_NE(opened.get().message.find("not a regular file"), std::string::npos);
}

TEST(ElementCount, OverflowIsNoCount) {
  // Guards against a product that wraps around to a small number.
  const auto count = [](std::vector<uint64_t> shape) { return element_count(shape); };
  EXPECT_EQ(count({}), 1U);
  EXPECT_EQ(count({3, 4}), 12U);
  EXPECT_EQ(count({3, 0}), 0U);
  EXPECT_EQ(count({uint64_t{1} << 32, (uint64_t{1} << 32) - 1}), 0xFFFFFFFF00000000U);
  EXPECT_EQ(count({uint64_t{1} << 32, uint64_t{1} << 32}), std::nullopt);
  EXPECT_EQ(count({4, (uint64_t{1} << 62) + 2}), std::nullopt);
}

TEST(DTypes, TablesAgree) {
  // Guards against a type that two names or two numbers of ggml lead to.
  std::set<int> ids;
  for (const auto& row : kDTypes) {
    EXPECT_EQ(info(row.dtype).name, row.name);
    if (row.ggml_id >= 0) {
      EXPECT_TRUE(ids.insert(row.ggml_id).second) << row.name;
      EXPECT_EQ(dtype_of_ggml(static_cast<uint32_t>(row.ggml_id)), row.dtype);
    }
    if (row.safetensors.empty()) continue;
    EXPECT_EQ(dtype_of_safetensors(row.safetensors), row.dtype);
  }
  EXPECT_EQ(dtype_of_ggml(0xFFFFFFFFU), std::nullopt);  // not the -1 of those ggml does not have
  EXPECT_EQ(dtype_of_safetensors(""), std::nullopt);
  EXPECT_EQ(bytes_of(DType::Q4_K, 512), 288U);
  EXPECT_EQ(bytes_of(DType::F16, 3), 6U);
}

TEST(Half, F16TakesEveryValueThereAndBack) {
  // Guards against subnormals, infinities and NaN that change on their way.
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    const bool nan = (bits & 0x7C00U) == 0x7C00U && (bits & 0x3FFU) != 0;
    ASSERT_EQ(std::isnan(value), nan) << bits;
    if (nan) continue;
    ASSERT_EQ(f32_to_f16(value), half) << bits;
    const int exponent = static_cast<int>((bits >> 10) & 31U);
    const auto mantissa = static_cast<double>(bits & 0x3FFU);
    if (exponent == 31) continue;
    const double size =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(static_cast<double>(value), (bits & 0x8000U) ? -size : size) << bits;
  }
}

TEST(Half, RoundsToNearestEven) {
  // Guards against truncation, which is off by up to a whole unit and always to one side.
  EXPECT_EQ(f32_to_f16(1.0F + 0x1p-11F), 0x3C00);      // a tie goes to even, down
  EXPECT_EQ(f32_to_f16(1.0F + 3 * 0x1p-11F), 0x3C02);  // a tie goes to even, up
  EXPECT_EQ(f32_to_f16(1.0F + 0x1p-11F + 0x1p-20F), 0x3C01);
  EXPECT_EQ(f32_to_f16(65519.0F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(0x1p-25F), 0x0000);
  EXPECT_EQ(f32_to_f16(1.5F * 0x1p-25F), 0x0001);
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(f32_to_bf16(1.0F + 3 * 0x1p-8F), 0x3F82);
  EXPECT_EQ(f32_to_bf16(-0.0F), 0x8000);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001U)))));
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::bit_cast<float>(0x7F800001U)))));
}

}  // namespace
}  // namespace plumb
