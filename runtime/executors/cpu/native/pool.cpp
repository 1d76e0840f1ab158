#include "pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

namespace {

// Threads that wait turn this many rounds, about a tenth of a millisecond, before they sleep: longer than an op usually
// keeps one thread after the others.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A word that threads wait on until it changes: a while in a loop, then asleep.
struct Signal {
  alignas(64) std::atomic<uint32_t> value{0};
  alignas(64) std::atomic<int> asleep{0};

  void wait_while(uint32_t old) {
    for (int spin = 0; spin < kSpins; spin++) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
    asleep.fetch_add(1);
    while (value.load() == old) futex(FUTEX_WAIT, old);
    asleep.fetch_sub(1);
  }

  void change_to(uint32_t next) {
    value.store(next);
    if (asleep.load() > 0) futex(FUTEX_WAKE, INT32_MAX);
  }

 private:
  void futex(int operation, uint32_t number) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), operation | FUTEX_PRIVATE_FLAG, number, nullptr, nullptr, 0);
  }
};

// Where threads wait for each other. The last one to come lets the others go.
struct Barrier {
  std::atomic<int> arrived{0};
  Signal phase;

  void wait(int threads) {
    if (threads == 1) return;
    const uint32_t now = phase.value.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived.store(0, std::memory_order_relaxed);
      phase.change_to(now + 1);
    } else {
      phase.wait_while(now);
    }
  }
};

struct Job {
  void (*run)(void*, int, int);
  void* argument;
  int threads;
};

std::mutex running;  // one job at a time
Job job;
Barrier between_ops, at_the_end;
int workers = 0;  // threads beside the caller
pid_t owner = 0;  // a process that was forked has no workers

Signal number;  // of the job; workers wait until it changes

// A worker takes part in the end of every job, also of one that has no part for it: so none is ever behind.
void work(int thread, uint32_t last) {
  for (;; last++) {
    number.wait_while(last);
    const int others = workers;
    if (thread < job.threads) job.run(job.argument, thread, job.threads);
    at_the_end.wait(others + 1);
  }
}

}  // namespace

void wait_for_all(int threads) { between_ops.wait(threads); }

void run_together(int threads, void (*run)(void*, int, int), void* argument) {
  std::lock_guard<std::mutex> lock(running);
  if (threads == 1) return run(argument, 0, 1);
  if (owner != getpid()) {
    owner = getpid();
    workers = 0;
    number.asleep = 0;
  }
  job = {run, argument, threads};
  const uint32_t last = number.value.load();
  for (; workers < threads - 1; workers++) std::thread(work, workers + 1, last).detach();
  number.change_to(last + 1);
  run(argument, 0, threads);
  at_the_end.wait(workers + 1);
}
