// Merge of finished attention results: what decoding over a sharded cache ends with. Small: heads x dim per
// token.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

template <class T>
T stored(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return to_bfloat16(value);
  }
}

struct Parts {
  std::int64_t count, tokens, heads, dim;
  const float* out_NTHE;
  const float* lse_NHT;

  float lse(std::int64_t part, std::int64_t token, std::int64_t head) const {
    return lse_NHT[(part * heads + head) * tokens + token];
  }
  const float* out(std::int64_t part, std::int64_t token, std::int64_t head) const {
    return out_NTHE + ((part * tokens + token) * heads + head) * dim;
  }
};

/// Shares of the parts in a row: exp(lse - max) over their sum; all 0 where no part saw a key.
void row_weights(const Parts& parts, std::int64_t token, std::int64_t head, std::vector<float>& weights) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t n = 0; n < parts.count; ++n) largest = std::max(largest, parts.lse(n, token, head));
  float total = 0;
  for (std::int64_t n = 0; n < parts.count; ++n) {
    const float lse = parts.lse(n, token, head);
    // Not exp(-inf - -inf), which is a NaN; a NaN that a part brings stays one.
    const float weight = lse == -std::numeric_limits<float>::infinity() ? 0 : std::exp(lse - largest);
    total += weights[static_cast<std::size_t>(n)] = weight;
  }
  if (total == 0) return;
  for (float& weight : weights) weight /= total;
}

template <class T>
void merge_row(const Parts& parts, const std::vector<float>& weights, std::int64_t token, std::int64_t head,
               T* out) {
  for (std::int64_t e = 0; e < parts.dim; ++e) {
    float sum = 0;
    for (std::int64_t n = 0; n < parts.count; ++n)
      sum += weights[static_cast<std::size_t>(n)] * parts.out(n, token, head)[e];
    out[e] = stored<T>(sum);
  }
}

template <class T>
void merge_all(const Parts& parts, const Tensor& out_THE) {
  std::vector<float> weights(static_cast<std::size_t>(parts.count));
  for (std::int64_t token = 0; token < parts.tokens; ++token) {
    for (std::int64_t head = 0; head < parts.heads; ++head) {
      row_weights(parts, token, head, weights);
      T* out = static_cast<T*>(out_THE.data) + token * out_THE.token_stride + head * out_THE.head_stride;
      merge_row(parts, weights, token, head, out);
    }
  }
}

}  // namespace

void attention_merge_finished(Stream&, std::int64_t parts, const float* parts_NTHE, const float* lse_NHT,
                              const Tensor& out_THE) {
  const Parts all{parts, out_THE.tokens, out_THE.heads, out_THE.dim, parts_NTHE, lse_NHT};
  out_THE.dtype == DType::f32 ? merge_all<float>(all, out_THE) : merge_all<bfloat16>(all, out_THE);
}

}  // namespace rondo::kernels
