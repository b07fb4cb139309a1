// Number of threads among which an operator divides its work.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "ort/api.h"

namespace sparserve::ort {

// Estimate of the size of the session's thread pool, which the ABI does not expose: the largest number of distinct
// threads seen in a short burst of small tasks. On a busy machine a thread may wake too late to be seen, so the estimate
// is repeated after 1, 3, 7, ... 255 runs. Only the division into tiles depends on it.
class ThreadCount {
 public:
  std::uint32_t get(const OrtApi& runtime, const KernelContext* context) {
    const std::uint64_t run = runs_.fetch_add(1, std::memory_order_relaxed);
    if (run <= kLastProbe && std::has_single_bit(run + 1)) {
      const std::uint32_t seen = probe(runtime, context);
      std::uint32_t known = count_.load(std::memory_order_relaxed);
      while (known < seen && !count_.compare_exchange_weak(known, seen, std::memory_order_relaxed)) {
      }
    }
    return std::max<std::uint32_t>(count_.load(std::memory_order_relaxed), 1);
  }

 private:
  static constexpr std::uint64_t kLastProbe = 256;
  static constexpr std::size_t kTasks = 64;

  static std::uint32_t probe(const OrtApi& runtime, const KernelContext* context) {
    struct Seen {
      std::mutex mutex;
      std::vector<std::thread::id> threads;
    } seen;
    const auto task = [](void* data, std::size_t) {
      auto& mine = *static_cast<Seen*>(data);
      {
        const std::lock_guard lock(mine.mutex);
        const auto id = std::this_thread::get_id();
        if (std::find(mine.threads.begin(), mine.threads.end(), id) == mine.threads.end()) mine.threads.push_back(id);
      }
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
      while (std::chrono::steady_clock::now() < until) {
      }
    };
    seen.threads.reserve(kTasks);  // a task must not throw: the pool belongs to the caller
    runtime.parallel_for(context, task, kTasks, &seen);
    return static_cast<std::uint32_t>(seen.threads.size());
  }

  std::atomic<std::uint64_t> runs_{0};
  std::atomic<std::uint32_t> count_{0};
};

}  // namespace sparserve::ort
