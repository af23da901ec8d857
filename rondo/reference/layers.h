#pragma once
// Every layer but attention in double precision, forward and backward side by side, over plain row-major
// vectors. Legend: T tokens, H heads, D head size, K columns of a weight, N rows of a weight, V vocabulary, P
// rotary pairs. Each backward returns the gradients of sum(dy * y). All throw ArgumentError when sizes do not
// fit.

#include <cstdint>
#include <span>
#include <vector>

namespace rondo::reference {

// y_TN = x_TK · w_NK^T
struct LinearShape {
  std::int64_t tokens = 0, rows = 0, columns = 0;  ///< T, N, K
};
std::vector<double> linear_forward(const std::vector<double>& x_TK, const std::vector<double>& w_NK,
                                   const LinearShape& shape);
struct LinearGradients {
  std::vector<double> dx_TK, dw_NK;
};
LinearGradients linear_backward(const std::vector<double>& x_TK, const std::vector<double>& w_NK,
                                const std::vector<double>& dy_TN, const LinearShape& shape);

// y = x * w / sqrt(mean(x^2) + epsilon), row by row (Zhang, Sennrich 2019); K is the size of w.
std::vector<double> rms_norm_forward(const std::vector<double>& x_TK, const std::vector<double>& w_K,
                                     double epsilon);
struct RmsNormGradients {
  std::vector<double> dx_TK, dw_K;
};
RmsNormGradients rms_norm_backward(const std::vector<double>& x_TK, const std::vector<double>& w_K,
                                   double epsilon, const std::vector<double>& dy_TK);

// Rotary embedding (Su et al. 2021): turns the first 2P elements of each head by the token's angles.
struct RotaryShape {
  std::int64_t tokens = 0, heads = 1, dim = 0, pairs = 0;
  bool interleaved = false;  ///< pairs are (2i, 2i+1); otherwise (i, i+P) as in Hugging Face's Llama
};
struct RotaryTable {
  std::vector<double> cos_TP, sin_TP;
};
/// Angles position * inverse frequency; both tables are multiplied by `factor` (YaRN's attention factor).
RotaryTable rotary_table(std::span<const std::int64_t> positions_T, const std::vector<double>& frequencies_P,
                         double factor = 1);
/// theta^(-2i/dim) for i in [0, dim/2): the unscaled inverse frequencies.
std::vector<double> rotary_frequencies(std::int64_t dim, double theta);
std::vector<double> rotary_forward(const std::vector<double>& x_THD, const RotaryTable& table,
                                   const RotaryShape& shape);
std::vector<double> rotary_backward(const std::vector<double>& dy_THD, const RotaryTable& table,
                                    const RotaryShape& shape);

// y = gate / (1 + exp(-gate)) * up (Shazeer 2020)
std::vector<double> swiglu_forward(const std::vector<double>& gate, const std::vector<double>& up);
struct SwigluGradients {
  std::vector<double> dgate, dup;
};
SwigluGradients swiglu_backward(const std::vector<double>& gate, const std::vector<double>& up,
                                const std::vector<double>& dy);

// y[t] = table[ids[t]]; `columns` is K.
std::vector<double> embedding_forward(std::span<const std::int32_t> ids, const std::vector<double>& table_VK,
                                      std::int64_t columns);
std::vector<double> embedding_backward(std::span<const std::int32_t> ids, const std::vector<double>& dy_TK,
                                       std::int64_t vocabulary);

/// x - log sum exp(x), row by row of `columns` elements.
std::vector<double> log_softmax(const std::vector<double>& x, std::int64_t columns);
/// losses[t] = -log_softmax(logits[t])[labels[t]] in nats; 0 where the label is negative (ignored).
std::vector<double> cross_entropy_forward(const std::vector<double>& logits_TV,
                                          std::span<const std::int32_t> labels);
/// scale * (softmax - onehot): the gradient of scale * sum(losses); 0 rows where ignored.
std::vector<double> cross_entropy_backward(const std::vector<double>& logits_TV,
                                           std::span<const std::int32_t> labels, double scale);

// AdamW with decoupled decay (Loshchilov, Hutter 2019, Algorithm 2, its schedule multiplier folded into
// learning_rate and decay multiplied by it), in place on parameters and moments.
struct AdamW {
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0;
  double gradient_scale = 1;  ///< multiplies the gradient first
  std::int64_t step = 1;      ///< counted from 1
};
void adamw(const AdamW& settings, const std::vector<double>& gradients, std::vector<double>& parameters,
           std::vector<double>& first_moment, std::vector<double>& second_moment);

}  // namespace rondo::reference
