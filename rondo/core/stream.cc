#include "rondo/core/stream.h"

namespace rondo {

Stream::Stream(Arena arena, ThreadPool& pool, Isa isa)
    : arena_(arena), pool_(&pool), isa_(isa), scratch_(static_cast<std::size_t>(pool.threads())) {}

Stream::~Stream() = default;

void Stream::reserve_scratch(std::int64_t bytes) {
  for (Buffer& buffer : scratch_) {
    if (buffer.bytes() >= bytes) continue;
    buffer = Buffer();
    buffer = arena_.allocate(Entry::library_scratch, bytes, "kernel scratch");
  }
}

}  // namespace rondo
