// A plain thread pool for programs that run the encoder without ONNX Runtime. Several callers may share it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "encoder.h"

namespace sparserve {

class Pool {
 public:
  // The caller of a job works on it as well: `threads` - 1 threads are started.
  explicit Pool(std::uint32_t threads) : threads_(threads) {
    for (std::uint32_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Must not outlive its pool. `threads` is the number reported to the encoder; it may differ from the real one.
  Parallel parallel(std::uint32_t threads) {
    return {this,
            [](void* context, void (*task)(void*, std::size_t), std::size_t count, void* data) {
              static_cast<Pool*>(context)->run(task, count, data);
            },
            threads};
  }
  Parallel parallel() { return parallel(threads_); }

 private:
  struct Job {
    void (*task)(void*, std::size_t);
    std::size_t count;
    void* data;
    std::atomic<std::size_t> next{0};
    std::atomic<std::size_t> done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };

  void run(void (*task)(void*, std::size_t), std::size_t count, void* data) {
    const auto job = std::make_shared<Job>();
    job->task = task;
    job->count = count;
    job->data = data;
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(job);
    }
    wake_.notify_all();
    take_part(*job);
    std::unique_lock lock(job->mutex);
    job->finished.wait(lock, [&] { return job->done.load() == count; });
  }

  static void take_part(Job& job) {
    for (std::size_t i = job.next.fetch_add(1); i < job.count; i = job.next.fetch_add(1)) {
      job.task(job.data, i);
      if (job.done.fetch_add(1) + 1 == job.count) {
        const std::lock_guard lock(job.mutex);
        job.finished.notify_all();
      }
    }
  }

  void work() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
        if (stopping_) return;
        job = jobs_.front();
        if (job->next.load() >= job->count) {
          jobs_.pop_front();
          continue;
        }
      }
      take_part(*job);
    }
  }

  std::uint32_t threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace sparserve
