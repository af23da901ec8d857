// Root-mean-square norm (Zhang, Sennrich 2019).

#include <cmath>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

double inverse_rms(double sum_of_squares, std::int64_t columns, float epsilon) {
  return 1 / std::sqrt(sum_of_squares / static_cast<double>(columns) + static_cast<double>(epsilon));
}

void check_norm(const char* op, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon) {
  check_matrix(op, "x_TK", x_TK, x_TK.tokens, x_TK.dim);
  check_matrix(op, "w_K", w_K, 1, x_TK.dim);
  check_dtype(op, "w_K", w_K, x_TK.dtype);
  check_argument(epsilon >= 0, op, "expected an epsilon of at least 0, got {}", epsilon);
}

struct NormBackward {
  const ConstTensor &x, &w, &dy;
  float epsilon;
  const Tensor& dx;
  bool accumulate;
};

/// dx of one token; adds its share of dw to dw_K.
template <class T>
void backward_row(const StoredRows<T>& kernels, const NormBackward& args, std::int64_t token, float* dw_K) {
  const std::int64_t columns = args.x.dim;
  const T *x = row_as<T>(args.x, token), *w = row_as<T>(args.w, 0);
  const auto* dy = row_as<float>(args.dy, token);
  const double s = inverse_rms(kernels.sum_of_squares(x, columns), columns, args.epsilon);
  const double c = s * s * s * kernels.dot3(x, w, dy, columns) / static_cast<double>(columns);
  const float s_c[2] = {static_cast<float>(s), static_cast<float>(c)};
  const auto backward = args.accumulate ? kernels.rms_backward_add : kernels.rms_backward;
  backward(x, w, dy, s_c, row_as<float>(args.dx, token), dw_K, columns);
}

}  // namespace

void rms_norm_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                      const Tensor& y_TK) {
  constexpr auto op = "rms_norm_forward";
  check_norm(op, x_TK, w_K, epsilon);
  check_matrix(op, "y_TK", y_TK, x_TK.tokens, x_TK.dim);
  check_dtype(op, "y_TK", y_TK, x_TK.dtype);
  with_stored(row_kernels(stream.isa()), x_TK.dtype, [&](const auto& kernels, auto element) {
    using T = decltype(element);
    for_row_blocks(stream, x_TK.tokens, x_TK.dim, [&](Range tokens, int) {
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const T* x = row_as<T>(x_TK, token);
        const double s = inverse_rms(kernels.sum_of_squares(x, x_TK.dim), x_TK.dim, epsilon);
        kernels.rms_forward(x, row_as<T>(w_K, 0), static_cast<float>(s), row_as<T>(y_TK, token), x_TK.dim);
      }
    });
  });
}

void rms_norm_backward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                       const ConstTensor& dy_TK, const Tensor& dx_TK, Store store_dx, const Tensor& dw_K) {
  constexpr auto op = "rms_norm_backward";
  check_norm(op, x_TK, w_K, epsilon);
  check_matrix(op, "dy_TK", dy_TK, x_TK.tokens, x_TK.dim);
  check_dtype(op, "dy_TK", dy_TK, DType::f32);
  check_matrix(op, "dx_TK", dx_TK, x_TK.tokens, x_TK.dim);
  check_dtype(op, "dx_TK", dx_TK, DType::f32);
  check_matrix(op, "dw_K", dw_K, 1, x_TK.dim);
  check_dtype(op, "dw_K", dw_K, DType::f32);
  if (x_TK.elements() == 0) return;
  // Each block of tokens sums its own dw; the sums are added in the order of the blocks. At most 64 of them
  // bound scratch.
  const std::int64_t tokens = x_TK.tokens, columns = x_TK.dim;
  const std::int64_t block = std::max<std::int64_t>(64, (tokens + 63) / 64),
                     blocks = (tokens + block - 1) / block;
  stream.reserve_scratch(blocks * columns * static_cast<std::int64_t>(sizeof(float)));
  auto* sums = reinterpret_cast<float*>(stream.scratch(0));
  const RowKernels& kernels = row_kernels(stream.isa());
  const NormBackward args{x_TK, w_K, dy_TK, epsilon, dx_TK, store_dx == Store::accumulate};
  with_stored(kernels, x_TK.dtype, [&](const auto& stored, auto) {
    stream.pool().run(blocks, [&](std::int64_t index, int) {
      float* sum = sums + index * columns;
      std::fill_n(sum, columns, 0.0f);
      for (std::int64_t token = index * block; token < std::min(tokens, (index + 1) * block); ++token)
        backward_row(stored, args, token, sum);
    });
  });
  auto* dw = static_cast<float*>(dw_K.data);
  for_row_blocks(stream, columns, blocks, [&](Range part, int) {
    for (std::int64_t index = 0; index < blocks; ++index)
      kernels.add(sums + index * columns + part.begin, dw + part.begin, part.size());
  });
}

}  // namespace rondo::kernels
