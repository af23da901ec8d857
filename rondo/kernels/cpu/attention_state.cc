// AttentionState in memory: for each head, for each tile of 64 queries: O^T[E][64] (unnormalised), then the
// running maximum[64] of the scores in units of log 2, then the running sum[64]. Lanes behind the last token
// stay neutral. The forward kernels work on this form directly, so that nothing is repacked between the hops
// of a ring.

#include <algorithm>
#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/tier_types.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {
namespace {

constexpr std::int64_t kTile = kQueryTile;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLn2 = 0.69314718055994530942;

std::int64_t tiles_of(std::int64_t tokens) { return (tokens + kTile - 1) / kTile; }
std::int64_t tile_elements(std::int64_t v_dim) { return (v_dim + 2) * kTile; }

void check_state(const char* operation, const AttentionState& state) {
  check_argument(state.tokens >= 0 && state.heads >= 1 && state.v_dim >= 1, operation,
                 "expected a state of tokens >= 0, heads >= 1, v_dim >= 1, got [{}, {}, {}]", state.tokens,
                 state.heads, state.v_dim);
  check_argument(state.data != nullptr || state.tokens == 0, operation,
                 "expected a state with memory, got null");
}

/// Calls task(tile, index) for each tile of each head of a state.
template <class Task>
void for_each_tile(Stream& stream, const AttentionState& state, const Task& task) {
  const std::int64_t elements = tile_elements(state.v_dim);
  stream.pool().run(state.heads * tiles_of(state.tokens),
                    [&](std::int64_t index, int) { task(state.data + index * elements, index); });
}

void merge_tile(float* into, const float* from, std::int64_t v_dim) {
  float* into_max = into + v_dim * kTile;
  const float* from_max = from + v_dim * kTile;
  float into_factor[kTile], from_factor[kTile];
  for (std::int64_t i = 0; i < kTile; ++i) {
    const float top = std::max(into_max[i], from_max[i]);
    const float shift = top == -kInfinity ? 0 : top;  // neither has seen a key: exp2(-inf - 0) = 0
    into_factor[i] = std::exp2(into_max[i] - shift);
    from_factor[i] = std::exp2(from_max[i] - shift);
    into_max[i] = top;
    into_max[kTile + i] = into_max[kTile + i] * into_factor[i] + from_max[kTile + i] * from_factor[i];
  }
  for (std::int64_t e = 0; e < v_dim; ++e)
    for (std::int64_t i = 0; i < kTile; ++i)
      into[e * kTile + i] = into[e * kTile + i] * into_factor[i] + from[e * kTile + i] * from_factor[i];
}

/// Output rows and lse of the first `count` lanes of a tile.
void finish_tile(const RowKernels& kernels, const float* tile, std::int64_t count, const Tensor& rows,
                 float* lse) {
  const std::int64_t v_dim = rows.dim;
  const float *maxima = tile + v_dim * kTile, *sums = maxima + kTile;
  RowBuffer buffer;
  for (std::int64_t i = 0; i < count; ++i) {
    void* row = row_of(rows, i);
    const float inverse = sums[i] == 0 ? 0.0f : 1.0f / sums[i];
    for_row_parts(v_dim, [&](Range part) {
      float* to = target_part(row, rows.dtype, part, false, buffer);
      for (std::int64_t e = 0; e < part.size(); ++e) to[e] = tile[(part.begin + e) * kTile + i] * inverse;
      store_part(kernels, to, row, rows.dtype, part, false);
    });
    if (lse == nullptr) continue;
    const double top = maxima[i], sum = sums[i];
    lse[i] = sum == 0 ? -kInfinity : static_cast<float>(top * kLn2 + std::log(sum));
  }
}

template <class T>
void delta_rows(const ConstTensor& dout, const ConstTensor& out, float* delta) {
  for (std::int64_t t = 0; t < out.tokens; ++t) {
    const T* a = static_cast<const T*>(dout.data) + t * dout.token_stride;
    const T* b = static_cast<const T*>(out.data) + t * out.token_stride;
    double sum = 0;
    for (std::int64_t e = 0; e < out.dim; ++e) sum += static_cast<double>(to_float(a[e])) * to_float(b[e]);
    delta[t] = static_cast<float>(sum);
  }
}

}  // namespace

std::int64_t attention_state_elements(std::int64_t tokens, std::int64_t heads, std::int64_t v_dim) {
  return heads * tiles_of(tokens) * tile_elements(v_dim);
}

void attention_state_clear(Stream& stream, const AttentionState& state) {
  check_state("attention_state_clear", state);
  for_each_tile(stream, state, [&](float* tile, std::int64_t) {
    float* maxima = std::fill_n(tile, state.v_dim * kTile, 0.0f);
    float* sums = std::fill_n(maxima, kTile, -kInfinity);
    std::fill_n(sums, kTile, 0.0f);
  });
}

void attention_state_merge(Stream& stream, const AttentionState& into, const AttentionState& from) {
  check_state("attention_state_merge", into);
  check_state("attention_state_merge", from);
  check_argument(into.tokens == from.tokens && into.heads == from.heads && into.v_dim == from.v_dim,
                 "attention_state_merge", "expected states of one shape, got [{}, {}, {}] and [{}, {}, {}]",
                 into.tokens, into.heads, into.v_dim, from.tokens, from.heads, from.v_dim);
  const std::int64_t elements = tile_elements(into.v_dim);
  for_each_tile(stream, into, [&](float* tile, std::int64_t index) {
    merge_tile(tile, from.data + index * elements, into.v_dim);
  });
}

void attention_state_finish(Stream& stream, const AttentionState& state, const Tensor& out_THE,
                            float* lse_HT) {
  check_state("attention_state_finish", state);
  check_argument(out_THE.tokens == state.tokens && out_THE.heads == state.heads && out_THE.dim == state.v_dim,
                 "attention_state_finish", "expected an output of [{}, {}, {}], got [{}, {}, {}]",
                 state.tokens, state.heads, state.v_dim, out_THE.tokens, out_THE.heads, out_THE.dim);
  const RowKernels& kernels = row_kernels(stream.isa());
  const std::int64_t tiles = tiles_of(state.tokens);
  for_each_tile(stream, state, [&](const float* tile, std::int64_t index) {
    const std::int64_t head = index / tiles, begin = index % tiles * kTile;
    const std::int64_t end = std::min(begin + kTile, state.tokens);
    const Tensor rows = out_THE.slice_heads({head, head + 1}).slice({begin, end});
    float* lse = lse_HT == nullptr ? nullptr : lse_HT + head * state.tokens + begin;
    finish_tile(kernels, tile, end - begin, rows, lse);
  });
}

void attention_delta(Stream& stream, const ConstTensor& dout_THE, const ConstTensor& out_THE,
                     float* delta_HT) {
  check_argument(dout_THE.dtype == out_THE.dtype, "attention_delta",
                 "expected dout of out's dtype {}, got {}", name_of(out_THE.dtype), name_of(dout_THE.dtype));
  check_argument(
      dout_THE.tokens == out_THE.tokens && dout_THE.heads == out_THE.heads && dout_THE.dim == out_THE.dim,
      "attention_delta", "expected dout of out's shape [{}, {}, {}], got [{}, {}, {}]", out_THE.tokens,
      out_THE.heads, out_THE.dim, dout_THE.tokens, dout_THE.heads, dout_THE.dim);
  const std::int64_t tiles = tiles_of(out_THE.tokens);
  stream.pool().run(out_THE.heads * tiles, [&](std::int64_t index, int) {
    const std::int64_t head = index / tiles, begin = index % tiles * kTile;
    const Range tokens{begin, std::min(begin + kTile, out_THE.tokens)}, heads{head, head + 1};
    const ConstTensor a = dout_THE.slice_heads(heads).slice(tokens),
                      b = out_THE.slice_heads(heads).slice(tokens);
    float* delta = delta_HT + head * out_THE.tokens + begin;
    if (out_THE.dtype == DType::bf16) {
      delta_rows<bfloat16>(a, b, delta);
    } else {
      delta_rows<float>(a, b, delta);
    }
  });
}

}  // namespace rondo::kernels
