#include "rondo/kernels/peak.h"

#include <cstdint>
#include <vector>

#include "rondo/core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rondo::kernels {

namespace {

using Clock = std::chrono::steady_clock;

// Independent sums, enough to hide the latency of an addition; rounds between looks at the clock (some 10
// us).
constexpr int kSums = 12;
constexpr std::int64_t kRounds = 4096;

/// Runs kRounds rounds of kSums multiply-adds; returns something that depends on all of them.
using Loop = float (*)();
struct Peak {
  Loop loop;
  int lanes;
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) float loop_avx512() {
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.5f), term = _mm512_set1_ps(0.25f);
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_fmadd_ps(sums[i], factor, term);
      asm("" : "+v"(sums[i]));  // neither merged nor taken out of the loop
    }
  }
  __m512 total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

__attribute__((target("avx2,fma"))) float loop_avx2() {
  __m256 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5f), term = _mm256_set1_ps(0.25f);
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm256_fmadd_ps(sums[i], factor, term);
      asm("" : "+x"(sums[i]));
    }
  }
  __m256 total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm256_add_ps(total, sums[i]);
  return _mm256_cvtss_f32(total);
}

float loop_portable() {
  __m128 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm_set1_ps(static_cast<float>(i));
  const __m128 factor = _mm_set1_ps(0.5f), term = _mm_set1_ps(0.25f);
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm_add_ps(_mm_mul_ps(sums[i], factor), term);
      asm("" : "+x"(sums[i]));
    }
  }
  __m128 total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm_add_ps(total, sums[i]);
  return _mm_cvtss_f32(total);
}

Peak peak_of(Isa isa) {
  if (isa == Isa::avx512) return {loop_avx512, 16};
  if (isa == Isa::avx2) return {loop_avx2, 8};
  return {loop_portable, 4};
}
#else
float loop_portable() {
  // Four floats in one value: what compilers for other processors turn into their own vectors.
  typedef float Vector __attribute__((vector_size(16)));
  Vector sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = Vector{} + static_cast<float>(i);
  for (std::int64_t round = 0; round < kRounds; ++round) {
    for (int i = 0; i < kSums; ++i) {
      sums[i] = sums[i] * 0.5f + 0.25f;
      asm("" : "+m"(sums[i]));
    }
  }
  float total = 0;
  for (int i = 0; i < kSums; ++i) total += sums[i][0];
  return total;
}

Peak peak_of(Isa) { return {loop_portable, 4}; }
#endif

}  // namespace

double measure_peak_flops(Stream& stream, DType, std::chrono::milliseconds budget) {
  check_argument(budget.count() > 0, "measure_peak_flops", "expected a positive budget, got {} ms",
                 budget.count());
  const Peak peak = peak_of(stream.isa());
  std::vector<std::int64_t> calls(static_cast<std::size_t>(stream.threads()));
  std::vector<float> results(calls.size());
  const auto begin = Clock::now();
  const auto deadline = begin + budget;
  // One task for each thread. A thread that comes too late (a busy machine) makes the rate smaller, never
  // larger: the time is that of all together.
  stream.pool().run(stream.threads(), [&](std::int64_t index, int) {
    std::int64_t count = 0;
    float result = 0;
    do {
      result += peak.loop();
      ++count;
    } while (Clock::now() < deadline);
    calls[static_cast<std::size_t>(index)] = count;
    results[static_cast<std::size_t>(index)] = result;
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  double flops = 0;
  for (std::int64_t count : calls) flops += static_cast<double>(count) * kRounds * kSums * peak.lanes * 2;
  return flops / seconds;
}

}  // namespace rondo::kernels
