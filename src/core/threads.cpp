// SPDX-License-Identifier: Apache-2.0
#include "core/threads.h"

#include <sched.h>

#include <algorithm>

namespace plumb {
namespace {

// A decode step has hundreds of short parallel parts: a sleeping thread would cost more than the
// work. Without work it sleeps after some 100 microseconds all the same, so that an idle program is
// idle.
constexpr int kSpins = 4000;
// More than one chunk a thread: one that starts late takes fewer.
constexpr size_t kChunksPerThread = 4;
constexpr size_t kMaxChunks = 0xFFFF;

uint64_t chunks_of(uint64_t ticket) { return (ticket >> 16) & 0xFFFF; }
uint64_t next_of(uint64_t ticket) { return ticket & 0xFFFF; }
uint64_t generation_of(uint64_t ticket) { return ticket >> 32; }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Threads::Threads(size_t count) {
  for (size_t i = 1; i < std::max<size_t>(count, 1); ++i) workers_.emplace_back([this] { work(); });
}

Threads::~Threads() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    ticket_.fetch_add(uint64_t{1} << 32);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::take_chunks() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (next_of(ticket) < chunks_of(ticket)) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire))
      continue;
    // The job cannot end before this chunk is done: its fields stay as they are.
    const size_t begin = next_of(ticket) * chunk_size_;
    (*body_)(begin, std::min(begin + chunk_size_, size_));
    done_.fetch_add(1, std::memory_order_acq_rel);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void Threads::run(size_t size, size_t grain, const Body& body) {
  if (size == 0) return;
  if (workers_.empty() || size <= grain) {
    body(0, size);
    return;
  }
  const size_t pieces = (size + grain - 1) / grain;
  const size_t wanted = std::min({pieces, count() * kChunksPerThread, kMaxChunks});
  const size_t chunk_size = (pieces + wanted - 1) / wanted * grain;
  const size_t chunks = (size + chunk_size - 1) / chunk_size;
  body_ = &body;
  size_ = size;
  chunk_size_ = chunk_size;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t generation = generation_of(ticket_.load(std::memory_order_relaxed)) + 1;
  ticket_.store(generation << 32 | chunks << 16, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    {
      std::lock_guard lock(mutex_);
    }  // A thread between its check and its sleep holds this.
    wake_.notify_all();
  }
  take_chunks();
  for (int spin = 0; done_.load(std::memory_order_acquire) != chunks; ++spin) {
    relax();
    if (spin > kSpins) std::this_thread::yield();
  }
}

void Threads::work() {
  uint64_t seen = 0;
  const auto changed = [&] {
    return generation_of(ticket_.load(std::memory_order_seq_cst)) != seen;
  };
  while (true) {
    for (int spin = 0; spin < kSpins && !changed(); ++spin) relax();
    if (!changed()) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, changed);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
    seen = generation_of(ticket_.load(std::memory_order_acquire));
    if (stop_) return;
    take_chunks();
  }
}

size_t available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0)
    return std::max(1U, std::thread::hardware_concurrency());
  return static_cast<size_t>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace plumb
