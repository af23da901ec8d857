#include "bench/decode.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "bench/arguments.h"
#include "bench/data.h"
#include "bench/verify.h"
#include "rondo/core/context.h"
#include "rondo/kernels/bandwidth.h"
#include "rondo/kernels/kernels.h"
#include "rondo/kernels/peak.h"
#include "rondo/reference/attention.h"

namespace rondo::bench {

namespace {

constexpr double kBudget = 5e7;  // multiplications of a comparison
enum DecodeStream : std::uint64_t { kQueries = 21, kCache };

class DecodeWork {
 public:
  explicit DecodeWork(const DecodeCase& what)
      : what_(what), context_({.threads = what.threads, .isa = what.isa}) {
    const std::int64_t tokens = what.sequences * what.ctx, B = what.sequences;
    const auto allocate = [&](Entry entry, std::int64_t elements, DType dtype) {
      return context_.arena.allocate(entry, elements * size_of(dtype), "bench");
    };
    cache_ = allocate(Entry::kv_cache, 2 * tokens * what.kv_heads * what.head_dim, what.dtype);
    queries_ = allocate(Entry::attention, B * what.heads * what.head_dim, what.dtype);
    out_memory_ = allocate(Entry::attention, B * what.heads * what.head_dim, DType::f32);
    const Tensor both = cache_.tensor(what.dtype, 2 * tokens, what.kv_heads, what.head_dim);
    fill_drawn(both, kCache);
    k_ = both.slice({0, tokens}), v_ = both.slice({tokens, 2 * tokens});
    q_ = queries_.tensor(what.dtype, B, what.heads, what.head_dim);
    out_ = out_memory_.tensor(DType::f32, B, what.heads, what.head_dim);
    fill_drawn(q_, kQueries);
    for (std::int64_t b = 0; b < B; ++b)
      tiles_.push_back({.q = {b, b + 1}, .k = {b * what.ctx, (b + 1) * what.ctx}});
  }

  void run(int repeats) {
    for (int n = 0; n < repeats; ++n)
      kernels::attention_decode(context_.stream, {.q_THD = q_,
                                                  .k_SGD = k_,
                                                  .v_SGE = v_,
                                                  .tiles = tiles_,
                                                  .params = {.scale = scale()},
                                                  .out_THE = out_});
  }

  double verified_error() {
    run(1);
    const double per_head = 2.0 * static_cast<double>(what_.ctx * what_.head_dim);
    const auto rows = static_cast<std::int64_t>(kBudget / per_head);
    Comparison comparison;
    for (const std::int64_t row : sampled(what_.sequences * what_.heads, rows))
      compare(row / what_.heads, row % what_.heads, comparison);
    require_small(comparison.relative(), what_.dtype, "decoding");
    return comparison.relative();
  }

  double bandwidth(std::chrono::milliseconds time) {
    const auto bytes = static_cast<std::size_t>(what_.cache_bytes());
    return kernels::measure_read_bandwidth(context_.stream, {cache_.as<std::byte>(), bytes}, time);
  }
  double peak(std::chrono::milliseconds time) {
    return kernels::measure_peak_flops(context_.stream, what_.dtype, time);
  }

 private:
  float scale() const { return 1 / std::sqrt(static_cast<float>(what_.head_dim)); }

  void compare(std::int64_t sequence, std::int64_t head, Comparison& comparison) const {
    const std::int64_t kv_head = head / (what_.heads / what_.kv_heads);
    const auto part = [](const Tensor& tensor, Range tokens, std::int64_t one) {
      return reference::to_doubles(tensor.slice(tokens).slice_heads({one, one + 1}));
    };
    const Range query{sequence, sequence + 1}, keys = tiles_[static_cast<std::size_t>(sequence)].k;
    reference::AttentionProblem problem;
    problem.q_tokens = 1;
    problem.k_tokens = what_.ctx;
    problem.qk_dim = problem.v_dim = what_.head_dim;
    problem.scale = scale();
    problem.q_THD = part(q_, query, head);
    problem.k_SGD = part(k_, keys, kv_head);
    problem.v_SGE = part(v_, keys, kv_head);
    comparison.add(part(out_, query, head), reference::attention_forward(problem).out_THE);
  }

  DecodeCase what_;
  Context context_;
  Buffer cache_, queries_, out_memory_;
  Tensor q_, k_, v_, out_;
  std::vector<Tile> tiles_;
};

}  // namespace

std::int64_t last_level_cache_bytes() {
  // sysconf adds up all last-level caches of a socket on some systems: asked only when there is no list.
  std::int64_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    std::int64_t size = 0;
    char unit = ' ';
    if (file >> size) file >> unit;
    largest = std::max(largest, unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size);
  }
  if (largest == 0) largest = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return largest > 0 ? largest : std::int64_t{32} << 20;
}

Row bench_decode(const DecodeCase& what, const MeasureOptions& options) {
  DecodeWork work(what);
  const double error = work.verified_error(), bytes = static_cast<double>(what.cache_bytes());
  const double peak = work.peak(options.peak_time);
  const Runs runs = measure(options, {[&](int repeats) { work.run(repeats); }}, [&] {
                      return work.bandwidth(options.peak_time);
                    }).front();
  const double flops = 4.0 * static_cast<double>(what.sequences * what.heads * what.ctx * what.head_dim);
  Row row = with_times({.bench = "decode",
                        .pass = "forward",
                        .dtype = short_name(what.dtype),
                        .head_dim = what.head_dim,
                        .heads = what.heads,
                        .kv_heads = what.kv_heads,
                        .ctx = what.ctx,
                        .mask = "none",
                        .layout = "contiguous",
                        .threads = what.threads,
                        .isa = kernels::tier_name(what.isa),
                        .max_rel_error = error},
                       runs);
  row.gflops = flops / row.seconds_median / 1e9;
  row.peak_gflops = peak / 1e9;
  row.fraction_of_peak = flops / row.seconds_median / peak;
  row.more = {{"sequences", what.sequences},
              {"cache_bytes", what.cache_bytes()},
              {"gbytes_per_second", bytes / row.seconds_median / 1e9},
              {"read_gbytes_per_second", median(runs.peaks) / 1e9},
              {"fraction_of_bandwidth", median_share(runs, bytes), 3}};
  return row;
}

}  // namespace rondo::bench
