#include "rondo/reference/layers.h"

#include <algorithm>
#include <cmath>

#include "rondo/core/error.h"
#include "rondo/reference/vector.h"

namespace rondo::reference {
namespace {

using Values = std::vector<double>;

std::int64_t length(const Values& values) { return static_cast<std::int64_t>(values.size()); }
Values zeros(std::int64_t count) { return Values(static_cast<std::size_t>(count), 0.0); }

void check_length(const char* operation, const char* what, const Values& values, std::int64_t expected) {
  check_argument(length(values) == expected, operation, "expected {} elements in {}, got {}", expected, what,
                 values.size());
}

std::int64_t rows_of(const char* operation, const Values& x, std::int64_t columns) {
  check_argument(columns > 0 && length(x) % columns == 0, operation, "expected rows of {} elements, got {}",
                 columns, x.size());
  return length(x) / columns;
}

}  // namespace

Values linear_forward(const Values& x_TK, const Values& w_NK, const LinearShape& shape) {
  const auto [T, N, K] = shape;
  check_length("reference linear", "x", x_TK, T * K);
  check_length("reference linear", "w", w_NK, N * K);
  Values y_TN = zeros(T * N);
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t n = 0; n < N; ++n)
      y_TN.data()[t * N + n] = dot(x_TK.data() + t * K, w_NK.data() + n * K, K);
  return y_TN;
}

LinearGradients linear_backward(const Values& x_TK, const Values& w_NK, const Values& dy_TN,
                                const LinearShape& shape) {
  const auto [T, N, K] = shape;
  check_length("reference linear", "x", x_TK, T * K);
  check_length("reference linear", "w", w_NK, N * K);
  check_length("reference linear", "dy", dy_TN, T * N);
  LinearGradients g{zeros(T * K), zeros(N * K)};
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t n = 0; n < N; ++n) {
      const double dy = dy_TN.data()[t * N + n];
      add_scaled(dy, w_NK.data() + n * K, g.dx_TK.data() + t * K, K);
      add_scaled(dy, x_TK.data() + t * K, g.dw_NK.data() + n * K, K);
    }
  return g;
}

Values rms_norm_forward(const Values& x_TK, const Values& w_K, double epsilon) {
  const std::int64_t K = length(w_K), T = rows_of("reference rms_norm", x_TK, K);
  Values y_TK = zeros(T * K);
  for (std::int64_t t = 0; t < T; ++t) {
    const double* x = x_TK.data() + t * K;
    const double inverse = 1 / std::sqrt(dot(x, x, K) / static_cast<double>(K) + epsilon);
    for (std::int64_t k = 0; k < K; ++k) y_TK.data()[t * K + k] = x[k] * inverse * w_K.data()[k];
  }
  return y_TK;
}

// With r = (mean(x^2) + epsilon)^(-1/2): dr/dx_k = -r^3 x_k / K.
RmsNormGradients rms_norm_backward(const Values& x_TK, const Values& w_K, double epsilon,
                                   const Values& dy_TK) {
  const std::int64_t K = length(w_K), T = rows_of("reference rms_norm", x_TK, K);
  check_length("reference rms_norm", "dy", dy_TK, T * K);
  RmsNormGradients g{zeros(T * K), zeros(K)};
  for (std::int64_t t = 0; t < T; ++t) {
    const double *x = x_TK.data() + t * K, *dy = dy_TK.data() + t * K;
    const double inverse = 1 / std::sqrt(dot(x, x, K) / static_cast<double>(K) + epsilon);
    double dinverse = 0;
    for (std::int64_t k = 0; k < K; ++k) {
      g.dw_K.data()[k] += dy[k] * x[k] * inverse;
      dinverse += dy[k] * w_K.data()[k] * x[k];
    }
    const double through_mean = dinverse * inverse * inverse * inverse / static_cast<double>(K);
    for (std::int64_t k = 0; k < K; ++k)
      g.dx_TK.data()[t * K + k] = dy[k] * w_K.data()[k] * inverse - through_mean * x[k];
  }
  return g;
}

RotaryTable rotary_table(std::span<const std::int64_t> positions_T, const Values& frequencies_P,
                         double factor) {
  RotaryTable table;
  for (const std::int64_t position : positions_T)
    for (const double frequency : frequencies_P) {
      const double angle = static_cast<double>(position) * frequency;
      table.cos_TP.push_back(factor * std::cos(angle));
      table.sin_TP.push_back(factor * std::sin(angle));
    }
  return table;
}

Values rotary_frequencies(std::int64_t dim, double theta) {
  Values frequencies;
  for (std::int64_t i = 0; i < dim / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim)));
  return frequencies;
}

namespace {

// direction +1 turns forward; -1 applies the transposed matrix, which is the gradient.
Values rotate(const Values& x_THD, const RotaryTable& table, const RotaryShape& s, double direction) {
  check_length("reference rotary", "x", x_THD, s.tokens * s.heads * s.dim);
  check_length("reference rotary", "cos", table.cos_TP, s.tokens * s.pairs);
  check_length("reference rotary", "sin", table.sin_TP, s.tokens * s.pairs);
  check_argument(2 * s.pairs <= s.dim, "reference rotary", "expected at most {} pairs, got {}", s.dim / 2,
                 s.pairs);
  Values y_THD = x_THD;
  for (std::int64_t t = 0; t < s.tokens; ++t)
    for (std::int64_t head = 0; head < s.heads; ++head)
      for (std::int64_t pair = 0; pair < s.pairs; ++pair) {
        const std::int64_t at = (t * s.heads + head) * s.dim;
        const std::int64_t first = at + (s.interleaved ? 2 * pair : pair);
        const std::int64_t second = s.interleaved ? first + 1 : first + s.pairs;
        const double c = table.cos_TP.data()[t * s.pairs + pair];
        const double sine = direction * table.sin_TP.data()[t * s.pairs + pair];
        const double a = x_THD.data()[first], b = x_THD.data()[second];
        y_THD.data()[first] = a * c - b * sine;
        y_THD.data()[second] = b * c + a * sine;
      }
  return y_THD;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

Values rotary_forward(const Values& x_THD, const RotaryTable& table, const RotaryShape& shape) {
  return rotate(x_THD, table, shape, 1);
}
Values rotary_backward(const Values& dy_THD, const RotaryTable& table, const RotaryShape& shape) {
  return rotate(dy_THD, table, shape, -1);
}

Values swiglu_forward(const Values& gate, const Values& up) {
  check_length("reference swiglu", "up", up, length(gate));
  Values y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return y;
}

SwigluGradients swiglu_backward(const Values& gate, const Values& up, const Values& dy) {
  check_length("reference swiglu", "up", up, length(gate));
  check_length("reference swiglu", "dy", dy, length(gate));
  SwigluGradients g{Values(gate.size()), Values(gate.size())};
  for (std::size_t i = 0; i < dy.size(); ++i) {
    const double s = sigmoid(gate[i]);
    g.dgate[i] = dy[i] * up[i] * s * (1 + gate[i] * (1 - s));
    g.dup[i] = dy[i] * gate[i] * s;
  }
  return g;
}

Values embedding_forward(std::span<const std::int32_t> ids, const Values& table_VK, std::int64_t columns) {
  const std::int64_t vocabulary = rows_of("reference embedding", table_VK, columns);
  Values y_TK;
  for (const std::int32_t id : ids) {
    check_argument(0 <= id && id < vocabulary, "reference embedding", "expected ids in [0, {}), got {}",
                   vocabulary, id);
    const double* row = table_VK.data() + id * columns;
    y_TK.insert(y_TK.end(), row, row + columns);
  }
  return y_TK;
}

Values embedding_backward(std::span<const std::int32_t> ids, const Values& dy_TK, std::int64_t vocabulary) {
  if (ids.empty()) return {};
  const auto tokens = static_cast<std::int64_t>(ids.size());
  check_argument(length(dy_TK) % tokens == 0, "reference embedding", "expected {} rows, got {} elements",
                 tokens, dy_TK.size());
  const std::int64_t columns = length(dy_TK) / tokens;
  Values dtable_VK = zeros(vocabulary * columns);
  for (std::int64_t t = 0; t < tokens; ++t)
    add_scaled(1, dy_TK.data() + t * columns, dtable_VK.data() + ids[static_cast<std::size_t>(t)] * columns,
               columns);
  return dtable_VK;
}

Values log_softmax(const Values& x, std::int64_t columns) {
  const std::int64_t rows = rows_of("reference log_softmax", x, columns);
  Values y = x;
  for (std::int64_t row = 0; row < rows; ++row) {
    double* values = y.data() + row * columns;
    const double largest = *std::max_element(values, values + columns);
    double sum = 0;
    for (std::int64_t i = 0; i < columns; ++i) sum += std::exp(values[i] - largest);
    for (std::int64_t i = 0; i < columns; ++i) values[i] -= largest + std::log(sum);
  }
  return y;
}

Values cross_entropy_forward(const Values& logits_TV, std::span<const std::int32_t> labels) {
  if (labels.empty()) return {};
  const auto tokens = static_cast<std::int64_t>(labels.size());
  const std::int64_t vocabulary = length(logits_TV) / tokens;
  check_length("reference cross_entropy", "logits", logits_TV, tokens * vocabulary);
  const Values log_probabilities = log_softmax(logits_TV, vocabulary);
  Values losses = zeros(tokens);
  for (std::size_t t = 0; t < labels.size(); ++t) {
    check_argument(labels[t] < vocabulary, "reference cross_entropy", "expected labels below {}, got {}",
                   vocabulary, labels[t]);
    if (labels[t] < 0) continue;
    losses[t] =
        -log_probabilities[t * static_cast<std::size_t>(vocabulary) + static_cast<std::size_t>(labels[t])];
  }
  return losses;
}

Values cross_entropy_backward(const Values& logits_TV, std::span<const std::int32_t> labels, double scale) {
  if (labels.empty()) return {};
  const std::size_t vocabulary = logits_TV.size() / labels.size();
  Values dlogits_TV = log_softmax(logits_TV, static_cast<std::int64_t>(vocabulary));
  for (std::size_t t = 0; t < labels.size(); ++t)
    for (std::size_t v = 0; v < vocabulary; ++v) {
      double& d = dlogits_TV[t * vocabulary + v];
      const bool is_label = static_cast<std::int32_t>(v) == labels[t];
      d = labels[t] < 0 ? 0 : scale * (std::exp(d) - (is_label ? 1 : 0));
    }
  return dlogits_TV;
}

void adamw(const AdamW& s, const Values& gradients, Values& parameters, Values& first_moment,
           Values& second_moment) {
  check_length("reference adamw", "gradients", gradients, length(parameters));
  check_length("reference adamw", "first moment", first_moment, length(parameters));
  check_length("reference adamw", "second moment", second_moment, length(parameters));
  const double correction1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const double gradient = s.gradient_scale * gradients[i];
    first_moment[i] = s.beta1 * first_moment[i] + (1 - s.beta1) * gradient;
    second_moment[i] = s.beta2 * second_moment[i] + (1 - s.beta2) * gradient * gradient;
    const double direction =
        first_moment[i] / correction1 / (std::sqrt(second_moment[i] / correction2) + s.epsilon);
    parameters[i] -= s.learning_rate * (direction + s.weight_decay * parameters[i]);
  }
}

}  // namespace rondo::reference
