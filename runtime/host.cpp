// The host: one thread pool per process, shared by every loaded model.
//
// A call reserves idle workers when it starts (`enter`: a bit mask, no wait) and gives them back when it ends. Inside the
// call, parallel_for posts a job into each reserved worker's mailbox, works on it itself, and then takes back the mails
// that no worker has opened yet: a worker that is asleep or descheduled never costs more than its wake-up call.
// Tasks start out split into one contiguous range per worker (so that a worker meets the same weights and rows again) and
// are stolen from the ranges of others at the end.
//
// Workers spin for a bounded time and then sleep on a futex. No thread exists until a call asks for more than one. After
// fork the child has no workers and makes its own when it first needs them.

#include "planish.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace {

constexpr int kMaxWorkers = 256;
constexpr int kWords = kMaxWorkers / 64;
constexpr int64_t kSpinNanoseconds = 80'000;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1'000'000'000) + t.tv_nsec;
}

inline int take_bit(uint64_t word) { return __builtin_ctzll(word); }

// The tasks that worker i was dealt; on a cache line of its own.
struct alignas(64) Range {
  std::atomic<int64_t> next;
  int64_t end;
};

struct Job {
  void (*body)(void*, int64_t, int32_t);
  void* arg;
  int32_t parts;
  Range* ranges;
};

// Mailbox states beside a pointer to a posted job.
Job* const kEmpty = nullptr;
Job* const kBusy = reinterpret_cast<Job*>(1);

struct alignas(64) Worker {
  std::atomic<Job*> mail;
  std::atomic<uint32_t> asleep;  // futex word
  int32_t number;                // as the kernel sees it; written by the owner of the reservation
};

// One per context.
struct Call {
  planish_host table;  // first: the kernels' view
  int32_t threads;
  int32_t error;
  int32_t members;
  Worker* member[kMaxWorkers];
  uint64_t reserved[kWords];
  Job job;
  Range* ranges;
};

struct Pool {
  Worker workers[kMaxWorkers];
  std::atomic<uint64_t> idle[kWords];
  std::atomic<int32_t> count;   // threads that exist
  std::atomic<int32_t> target;  // threads that were asked for
  std::atomic<int32_t> growing;
};

Pool pool;  // zero-initialised, never destroyed: workers may outlive main

void futex(std::atomic<uint32_t>* word, int op, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

void drain(const Job& job, int32_t me) {
  for (int32_t k = 0; k < job.parts; ++k) {
    Range& range = job.ranges[(me + k) % job.parts];
    while (range.next.load(std::memory_order_relaxed) < range.end) {
      const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= range.end) break;
      job.body(job.arg, task, me);
    }
  }
}

void* worker_main(void* argument) {
  Worker& self = *static_cast<Worker*>(argument);
  for (;;) {
    const int64_t deadline = now() + kSpinNanoseconds;
    for (unsigned turn = 1;; ++turn) {
      Job* job = self.mail.load(std::memory_order_relaxed);
      if (job != kEmpty) {
        if (self.mail.compare_exchange_strong(job, kBusy, std::memory_order_acquire, std::memory_order_relaxed)) {
          drain(*job, self.number);
          self.mail.store(kEmpty, std::memory_order_release);
        }
        break;
      }
      relax();
      if (turn % 64 == 0 && now() > deadline) {
        // Say so, then look once more: a poster stores the mail first and reads `asleep` second.
        self.asleep.store(1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        while (self.mail.load(std::memory_order_relaxed) == kEmpty && self.asleep.load(std::memory_order_relaxed) == 1)
          futex(&self.asleep, FUTEX_WAIT, 1);
        self.asleep.store(0, std::memory_order_relaxed);
        break;
      }
    }
  }
  return nullptr;
}

// Makes the threads that are missing; another caller that is at it is left alone.
void grow() {
  int32_t nobody = 0;
  if (!pool.growing.compare_exchange_strong(nobody, 1, std::memory_order_acquire)) return;
  sigset_t all, before;  // signals are the program's business, not the workers'
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  int32_t count = pool.count.load(std::memory_order_relaxed);
  while (count < pool.target.load(std::memory_order_relaxed)) {
    Worker& worker = pool.workers[count];
    worker.mail.store(kEmpty, std::memory_order_relaxed);
    worker.asleep.store(0, std::memory_order_relaxed);
    pthread_t thread;
    if (pthread_create(&thread, &attributes, worker_main, &worker) != 0) {
      pool.target.store(count, std::memory_order_relaxed);  // the limit of the process: live with what there is
      break;
    }
    char name[24];  // the kernel takes 15 characters; there are at most 256 workers
    snprintf(name, sizeof name, "planish-%d", count + 1);
    pthread_setname_np(thread, name);
    pool.idle[count / 64].fetch_or(UINT64_C(1) << (count % 64), std::memory_order_release);
    pool.count.store(++count, std::memory_order_relaxed);
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pool.growing.store(0, std::memory_order_release);
}

void after_fork_in_child() {
  for (auto& word : pool.idle) word.store(0, std::memory_order_relaxed);
  pool.count.store(0, std::memory_order_relaxed);
  pool.growing.store(0, std::memory_order_relaxed);
}

void parallel_for(const planish_host* host, int64_t tasks, void (*body)(void*, int64_t, int32_t), void* arg) {
  Call& call = *static_cast<Call*>(host->pool);
  const int64_t parts = tasks < host->workers ? tasks : host->workers;
  if (parts <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(arg, task, 0);
    return;
  }
  Job& job = call.job;
  job.body = body;
  job.arg = arg;
  job.parts = static_cast<int32_t>(parts);
  for (int64_t i = 0; i < parts; ++i) {
    call.ranges[i].next.store(tasks * i / parts, std::memory_order_relaxed);
    call.ranges[i].end = tasks * (i + 1) / parts;
  }
  const int64_t helpers = parts - 1;
  for (int64_t i = 0; i < helpers; ++i) call.member[i]->mail.store(&job, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (int64_t i = 0; i < helpers; ++i) {
    Worker& worker = *call.member[i];
    if (worker.asleep.load(std::memory_order_relaxed) && worker.asleep.exchange(0, std::memory_order_relaxed))
      futex(&worker.asleep, FUTEX_WAKE, 1);
  }
  drain(job, 0);
  for (int64_t i = 0; i < helpers; ++i) {
    Worker& worker = *call.member[i];
    Job* posted = &job;
    if (worker.mail.compare_exchange_strong(posted, kEmpty, std::memory_order_acquire, std::memory_order_acquire)) continue;
    for (unsigned turn = 1; worker.mail.load(std::memory_order_acquire) != kEmpty; ++turn) {
      relax();
      if (turn > 4096) sched_yield();  // its core may be needed to finish
    }
  }
}

planish_host* open_call(int32_t threads) {
  if (threads < 1) threads = 1;
  if (threads > kMaxWorkers) threads = kMaxWorkers;
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, sizeof(Call) + 64 + sizeof(Range) * static_cast<size_t>(threads)) != 0) return nullptr;
  Call* call = new (memory) Call();
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + sizeof(Call);
  call->ranges = reinterpret_cast<Range*>((end + 63) / 64 * 64);
  for (int32_t i = 0; i < threads; ++i) new (&call->ranges[i]) Range();
  call->threads = threads;
  call->job.ranges = call->ranges;
  call->table = {PLANISH_HOST_ABI, 1, parallel_for, call, &call->error};
  return &call->table;
}

void close_call(planish_host* host) {
  if (host != nullptr) free(host->pool);
}

void enter(planish_host* host) {
  Call& call = *static_cast<Call*>(host->pool);
  call.error = 0;
  call.members = 0;
  host->workers = 1;
  int32_t wanted = call.threads - 1;
  if (wanted <= 0) return;
  if (pool.count.load(std::memory_order_relaxed) < pool.target.load(std::memory_order_relaxed)) grow();
  for (int w = 0; w < kWords && wanted > 0; ++w) {
    uint64_t idle = pool.idle[w].load(std::memory_order_relaxed), taken;
    do {
      taken = 0;
      uint64_t left = idle;
      for (int32_t n = 0; n < wanted && left != 0; ++n) {
        const uint64_t lowest = left & (~left + 1);
        taken |= lowest;
        left ^= lowest;
      }
    } while (taken != 0 &&
             !pool.idle[w].compare_exchange_weak(idle, idle & ~taken, std::memory_order_acquire, std::memory_order_relaxed));
    call.reserved[w] = taken;
    for (uint64_t left = taken; left != 0; left &= left - 1) {
      Worker& worker = pool.workers[w * 64 + take_bit(left)];
      call.member[call.members++] = &worker;
      worker.number = call.members;
      --wanted;
    }
  }
  host->workers = 1 + call.members;
}

void leave(planish_host* host) {
  Call& call = *static_cast<Call*>(host->pool);
  if (call.members == 0) return;
  for (int w = 0; w < kWords; ++w) {
    if (call.reserved[w] != 0) pool.idle[w].fetch_or(call.reserved[w], std::memory_order_release);
    call.reserved[w] = 0;
  }
  call.members = 0;
  host->workers = 1;
}

void reserve(int32_t threads, int32_t calls) {
  int64_t wanted = static_cast<int64_t>(threads - 1) * calls;
  if (wanted > kMaxWorkers) wanted = kMaxWorkers;
  int32_t target = pool.target.load(std::memory_order_relaxed);
  while (target < wanted && !pool.target.compare_exchange_weak(target, static_cast<int32_t>(wanted))) {
  }
}

int32_t workers() { return pool.count.load(std::memory_order_relaxed); }

const planish_host_api api = {PLANISH_HOST_ABI, open_call, close_call, enter, leave, reserve, workers};

__attribute__((constructor)) void register_fork_handler() { pthread_atfork(nullptr, nullptr, after_fork_in_child); }

}  // namespace

extern "C" uint32_t planish_host_abi(void) { return PLANISH_HOST_ABI; }
extern "C" const planish_host_api* planish_host_table(void) { return &api; }
