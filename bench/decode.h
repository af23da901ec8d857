#pragma once
// bench decode: the newest token of each sequence attends to its cache.

#include "bench/measure.h"
#include "bench/row.h"
#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"

namespace rondo::bench {

struct DecodeCase {
  DType dtype = DType::f32;
  std::int64_t head_dim = 64, heads = 1, kv_heads = 1;
  std::int64_t sequences = 1, ctx = 0;  ///< tokens of each sequence's cache
  int threads = 1;
  Isa isa = default_isa();

  std::int64_t bytes_per_token() const { return 2 * kv_heads * head_dim * size_of(dtype); }
  std::int64_t cache_bytes() const { return sequences * ctx * bytes_per_token(); }
};

/// Bytes of the last-level cache that one processor shares with its neighbours; 32 MiB where the system does
/// not say.
std::int64_t last_level_cache_bytes();

/// Verifies some heads and sequences, then times one layer's attention of all of them. Every run stands
/// between two measurements of how fast the same threads read the cache's own memory.
Row bench_decode(const DecodeCase& what, const MeasureOptions& options);

}  // namespace rondo::bench
