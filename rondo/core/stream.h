#pragma once
// Where kernels run: a device's threads, its instruction set and its scratch memory.

#include <cstdint>
#include <vector>

#include "rondo/core/arena.h"
#include "rondo/core/isa.h"
#include "rondo/core/thread_pool.h"

namespace rondo {

/// Every kernel takes one. Work issued to a CPU stream is finished when the call returns.
class Stream {
 public:
  Stream(Arena arena, ThreadPool& pool, Isa isa);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  ThreadPool& pool() { return *pool_; }
  Isa isa() const { return isa_; }
  int threads() const { return pool_->threads(); }

  /// At least `bytes` of 64-byte aligned memory of its own for each worker; contents are undefined. Grows at
  /// need (entered as library scratch) and never shrinks. Call before the parallel part: it is not safe from
  /// workers.
  void reserve_scratch(std::int64_t bytes);
  std::byte* scratch(int worker) const { return scratch_[static_cast<std::size_t>(worker)].as<std::byte>(); }

 private:
  Arena arena_;
  ThreadPool* pool_;
  Isa isa_;
  std::vector<Buffer> scratch_;
};

}  // namespace rondo
