// Merge of finished attention results: what decoding over a sharded cache ends with. Small: heads x dim per
// token.

#include <cmath>
#include <limits>

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

template <class T>
void merge_row(const Parts& parts, std::int64_t token, std::int64_t head, T* out) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t n = 0; n < parts.count; ++n) largest = std::max(largest, parts.lse(n, token, head));
  const bool nothing = largest == -std::numeric_limits<float>::infinity();
  float total = 0;
  for (std::int64_t n = 0; n < parts.count && !nothing; ++n)
    total += std::exp(parts.lse(n, token, head) - largest);
  for (std::int64_t e = 0; e < parts.dim; ++e) {
    float sum = 0;
    for (std::int64_t n = 0; n < parts.count && !nothing; ++n)
      sum += std::exp(parts.lse(n, token, head) - largest) * parts.out(n, token, head)[e];
    out[e] = stored<T>(nothing ? 0.0f : sum / total);
  }
}

template <class T>
void merge_all(const Parts& parts, const Tensor& out_THE) {
  for (std::int64_t token = 0; token < parts.tokens; ++token)
    for (std::int64_t head = 0; head < parts.heads; ++head)
      merge_row(parts, token, head,
                static_cast<T*>(out_THE.data) + token * out_THE.token_stride + head * out_THE.head_stride);
}

}  // namespace

void attention_merge_finished(Stream&, std::int64_t parts, const float* parts_NTHE, const float* lse_NHT,
                              const Tensor& out_THE) {
  const Parts all{parts, out_THE.tokens, out_THE.heads, out_THE.dim, parts_NTHE, lse_NHT};
  out_THE.dtype == DType::f32 ? merge_all<float>(all, out_THE) : merge_all<bfloat16>(all, out_THE);
}

}  // namespace rondo::kernels
