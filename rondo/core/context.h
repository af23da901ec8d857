#pragma once
// Everything that belongs to one device. Passed to whoever needs it; nothing of it is global or thread-local,
// so that several devices live in one process.

#include "rondo/core/arena.h"
#include "rondo/core/isa.h"
#include "rondo/core/ledger.h"
#include "rondo/core/stream.h"
#include "rondo/core/thread_pool.h"
#include "rondo/core/trace.h"

namespace rondo {

struct ContextOptions {
  int device = 0;                 ///< this device's place in the ring
  int threads = 1;                ///< threads that compute on it
  Isa isa = default_isa();        ///< tier of its kernels
  std::int64_t memory_limit = 0;  ///< bytes its ledger may reach; 0 is no limit
  Trace* trace = nullptr;         ///< where its events go, outlives it; null records nothing
};

class Context {
 public:
  explicit Context(const ContextOptions& options)
      : device(options.device),
        ledger(options.device),
        arena(ledger),
        pool(options.threads),
        stream(arena, pool, options.isa),
        trace(options.trace, options.device, &times) {
    ledger.set_limit(options.memory_limit);
    ledger.record_into(options.trace);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const int device;
  Ledger ledger;
  Arena arena;
  ThreadPool pool;
  Stream stream;
  TimeAccount times;
  DeviceTrace trace;
};

}  // namespace rondo
