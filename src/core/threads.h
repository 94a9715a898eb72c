// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace plumb {

// A fixed team of threads; the caller is one of them. Work is cut into contiguous chunks that the
// threads take one after the other, so a thread that the system has stopped holds nobody up. Which
// thread computes an index never changes what is computed.
class Threads {
 public:
  // At least one; more than the machine has is allowed (and slow).
  explicit Threads(size_t count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  size_t count() const { return workers_.size() + 1; }

  using Body = std::function<void(size_t begin, size_t end)>;
  // Calls body so that its ranges cover [0, size) once; returns when all are done. Ranges begin at
  // multiples of `grain`. One job at a time.
  void run(size_t size, size_t grain, const Body& body);

 private:
  void work();
  // Takes chunks of the job that `ticket_` stands for until none is left.
  void take_chunks();

  std::vector<std::thread> workers_;
  const Body* body_ = nullptr;
  size_t size_ = 0, chunk_size_ = 1;
  // Generation (32 bits), number of chunks (16), next chunk (16): one word, so that a late thread
  // can never take a chunk of a job that is over.
  std::atomic<uint64_t> ticket_ = 0;
  std::atomic<size_t> done_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<size_t> sleepers_ = 0;
};

// The processors that this process may use.
size_t available_processors();

}  // namespace plumb
