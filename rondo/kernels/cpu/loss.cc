// Cross-entropy over the vocabulary and its gradient.

#include <cmath>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

/// The loss of one token that is scored; replaces its logits where there is a gradient scale.
float loss_of_row(const RowKernels& kernels, float* logits, std::int64_t vocabulary, std::int32_t label,
                  float gradient_scale) {
  const float most = kernels.maximum(logits, vocabulary);
  const double of_label = static_cast<double>(logits[label]) - static_cast<double>(most);
  if (gradient_scale == 0.0f)
    return static_cast<float>(std::log(kernels.sum_exp(logits, most, vocabulary)) - of_label);
  const double sum = kernels.exp_in_place(logits, most, vocabulary);
  kernels.scale(logits, static_cast<float>(static_cast<double>(gradient_scale) / sum), vocabulary);
  logits[label] -= gradient_scale;
  return static_cast<float>(std::log(sum) - of_label);
}

}  // namespace

void cross_entropy(Stream& stream, const Tensor& logits_TV, std::span<const std::int32_t> labels,
                   float gradient_scale, std::span<float> losses) {
  constexpr auto op = "cross_entropy";
  const std::int64_t tokens = logits_TV.tokens, vocabulary = logits_TV.dim;
  check_matrix(op, "logits_TV", logits_TV, tokens, vocabulary);
  check_dtype(op, "logits_TV", logits_TV, DType::f32);
  check_argument(static_cast<std::int64_t>(labels.size()) == tokens, op, "expected {} labels, got {}", tokens,
                 labels.size());
  check_argument(static_cast<std::int64_t>(losses.size()) == tokens, op, "expected {} losses, got {}", tokens,
                 losses.size());
  for (std::size_t t = 0; t < labels.size(); ++t)
    check_argument(labels[t] < vocabulary, op, "expected labels below {}, got {} at token {}", vocabulary,
                   labels[t], t);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_row_blocks(stream, tokens, vocabulary, [&](Range range, int) {
    for (std::int64_t token = range.begin; token < range.end; ++token) {
      const auto t = static_cast<std::size_t>(token);
      auto* logits = static_cast<float*>(row_of(logits_TV, token));
      if (labels[t] <= kIgnoreLabel) {
        losses[t] = 0;
        if (gradient_scale != 0.0f) std::fill_n(logits, vocabulary, 0.0f);
      } else {
        losses[t] = loss_of_row(kernels, logits, vocabulary, labels[t], gradient_scale);
      }
    }
  });
}

}  // namespace rondo::kernels
