// SPDX-License-Identifier: Apache-2.0
#include "core/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace plumb {
namespace {

// A machine made of files.
class FakeMachine {
 public:
  FakeMachine() {
    root_ = std::filesystem::temp_directory_path() /
            ("plumb_memory_test_" + std::to_string(::getpid()));
    std::filesystem::remove_all(root_);
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  uint64_t available() const { return available_memory(root_); }

 private:
  std::filesystem::path root_;
};

constexpr uint64_t kSystem = 8'000'000ULL * 1024;

FakeMachine& with_system(FakeMachine& machine) {
  machine.write("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n");
  return machine;
}

TEST(AvailableMemory, UnknownWhereNothingSaysSo) {
  EXPECT_EQ(FakeMachine().available(), kMemoryUnknown);
}

TEST(AvailableMemory, IsTheSystemsWithoutLimits) {
  FakeMachine machine;
  with_system(machine);
  EXPECT_EQ(machine.available(), kSystem);
  machine.write("proc/self/cgroup", "0::/user.slice\n");
  machine.write("sys/fs/cgroup/user.slice/memory.max", "max\n");
  machine.write("sys/fs/cgroup/user.slice/memory.current", "5000\n");
  EXPECT_EQ(machine.available(), kSystem);
}

TEST(AvailableMemory, TakesTheTightestGroupOfV2AndCountsCachedFilesAsFree) {
  FakeMachine machine;
  with_system(machine).write("proc/self/cgroup", "0::/a/b\n");
  machine.write("sys/fs/cgroup/a/memory.max", "1000000\n");
  machine.write("sys/fs/cgroup/a/memory.current", "900000\n");
  machine.write("sys/fs/cgroup/a/memory.stat",
                "anon 1\nfile 9\ninactive_file 300000\nactive_file 50000\n");
  machine.write("sys/fs/cgroup/a/b/memory.max", "2000000\n");
  machine.write("sys/fs/cgroup/a/b/memory.current", "900000\n");
  EXPECT_EQ(machine.available(), 1000000U - (900000U - 350000U));
  machine.write("sys/fs/cgroup/a/b/memory.max", "1000000\n");
  EXPECT_EQ(machine.available(), 100000U);
}

TEST(AvailableMemory, LooksAtTheTopWhereAContainerHidesItsOwnPath) {
  FakeMachine machine;
  with_system(machine).write("proc/self/cgroup", "0::/docker/0123\n");
  machine.write("sys/fs/cgroup/memory.max", "5000\n");
  machine.write("sys/fs/cgroup/memory.current", "6000\n");
  EXPECT_EQ(machine.available(), 0U) << "more is in use than the limit allows";
}

TEST(AvailableMemory, ReadsV1) {
  FakeMachine machine;
  with_system(machine).write("proc/self/cgroup", "3:cpu,cpuacct:/c\n2:hugetlb,memory:/m/n\n");
  machine.write("sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write("sys/fs/cgroup/memory/m/n/memory.usage_in_bytes", "10\n");
  EXPECT_EQ(machine.available(), kSystem);
  machine.write("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "7000\n");
  machine.write("sys/fs/cgroup/memory/m/memory.usage_in_bytes", "2000\n");
  machine.write("sys/fs/cgroup/memory/m/memory.stat", "cache 5\ntotal_inactive_file 500\n");
  EXPECT_EQ(machine.available(), 5500U);
}

TEST(AvailableMemory, OfThisMachineIsSomething) { EXPECT_GT(available_memory(), 1U << 20); }

TEST(FormatBytes, HasThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 bytes");
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(12'345'678), "12.3 MB");
  EXPECT_EQ(format_bytes(999'499'999), "999 MB");
  EXPECT_EQ(format_bytes(999'600'000), "1.00 GB");
  EXPECT_EQ(format_bytes(UINT64_MAX), "18.4 EB");
}

}  // namespace
}  // namespace plumb
