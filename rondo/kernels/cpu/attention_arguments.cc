#include "rondo/kernels/cpu/attention_arguments.h"

#include <algorithm>
#include <cmath>

#include "rondo/core/error.h"

namespace rondo::kernels {
namespace {

constexpr std::int64_t kSmallestHead = 4, kLargestHead = 256;

void check_tile(const char* operation, const Tile& tile, std::int64_t q_tokens, std::int64_t k_tokens) {
  check_argument(tile.q.begin >= 0 && tile.q.begin <= tile.q.end && tile.q.end <= q_tokens, operation,
                 "expected a tile's queries within [0, {}), got [{}, {})", q_tokens, tile.q.begin,
                 tile.q.end);
  check_argument(tile.k.begin >= 0 && tile.k.begin <= tile.k.end && tile.k.end <= k_tokens, operation,
                 "expected a tile's keys within [0, {}), got [{}, {})", k_tokens, tile.k.begin, tile.k.end);
}

}  // namespace

void check_attention_tensor(const char* operation, const char* name, const ConstTensor& x,
                            std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  check_argument(x.tokens == tokens && x.heads == heads && x.dim == dim, operation,
                 "expected {} of [{}, {}, {}], got [{}, {}, {}]", name, tokens, heads, dim, x.tokens, x.heads,
                 x.dim);
  check_argument(x.data != nullptr || x.tokens == 0, operation, "expected {} with memory, got null", name);
}

void check_attention_inputs(const char* operation, const ConstTensor& q_THD, const ConstTensor& k_SGD,
                            const ConstTensor& v_SGE) {
  const ConstTensor &q = q_THD, &k = k_SGD, &v = v_SGE;
  check_argument(k.heads >= 1 && q.heads >= k.heads && q.heads % k.heads == 0, operation,
                 "expected query heads to be a multiple of key/value heads, got {} and {}", q.heads, k.heads);
  for (const std::int64_t dim : {q.dim, v.dim})
    check_argument(dim >= kSmallestHead && dim <= kLargestHead, operation,
                   "expected head sizes of {} to {}, got {}", kSmallestHead, kLargestHead, dim);
  check_argument(q.tokens >= 0 && k.tokens >= 0, operation,
                 "expected tokens >= 0, got {} queries and {} keys", q.tokens, k.tokens);
  check_attention_tensor(operation, "q", q, q.tokens, q.heads, q.dim);
  check_attention_tensor(operation, "k", k, k.tokens, k.heads, q.dim);
  check_attention_tensor(operation, "v", v, k.tokens, k.heads, v.dim);
  check_argument(k.dtype == q.dtype && v.dtype == q.dtype, operation,
                 "expected q, k and v of one dtype, got {}, {} and {}", name_of(q.dtype), name_of(k.dtype),
                 name_of(v.dtype));
}

void check_attention_params(const char* operation, const AttentionParams& params) {
  check_argument(std::isfinite(params.scale), operation, "expected a finite scale, got {}", params.scale);
  check_argument(std::isfinite(params.softcap) && params.softcap >= 0, operation,
                 "expected a finite softcap >= 0, got {}", params.softcap);
  const float p = params.dropout.probability;
  check_argument(p >= 0 && p < 1, operation, "expected a dropout probability in [0, 1), got {}", p);
}

std::vector<TileBox> attention_boxes(const char* operation, std::span<const Tile> tiles,
                                     std::int64_t q_tokens, std::int64_t k_tokens) {
  constexpr std::int64_t far = Band::unbounded;
  std::vector<TileBox> boxes;
  boxes.reserve(tiles.size());
  for (const Tile& tile : tiles) {
    check_tile(operation, tile, q_tokens, k_tokens);
    if (tile.q.empty() || tile.k.empty() || tile.band.lo > tile.band.hi) continue;
    boxes.push_back({.q_begin = tile.q.begin,
                     .q_end = tile.q.end,
                     .k_begin = tile.k.begin,
                     .k_end = tile.k.end,
                     .lo = std::clamp(tile.band.lo, -far, far),
                     .hi = std::clamp(tile.band.hi, -far, far),
                     .q_position = tile.q_position,
                     .k_position = tile.k_position,
                     .stride = tile.stride,
                     .sequence = static_cast<std::uint32_t>(tile.sequence)});
  }
  return boxes;
}

ScoreRule attention_rule(const std::vector<TileBox>& boxes, const AttentionParams& params) {
  const Dropout& dropout = params.dropout;
  const double p = dropout.probability;
  return {.tiles = boxes.data(),
          .tile_count = static_cast<std::int64_t>(boxes.size()),
          .scale = params.scale,
          .softcap = params.softcap,
          .dropout = {.threshold = static_cast<std::uint32_t>(std::ceil(p * 0x1p32)),
                      .key0 = dropout.key[0],
                      .key1 = dropout.key[1],
                      .keep_scale = static_cast<float>(1 / (1 - p))}};
}

HeadView head_view(const ConstTensor& x, std::int64_t head) {
  return {.data = x.slice_heads({head, head + 1}).data,
          .token_stride = x.token_stride,
          .dim = x.dim,
          .is_bf16 = x.dtype == DType::bf16};
}

}  // namespace rondo::kernels
