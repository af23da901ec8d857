// Root-mean-square norm (Zhang, Sennrich 2019).

#include <cmath>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

/// 1 / sqrt(mean(x^2) + epsilon) of one row.
double inverse_rms(const RowKernels& kernels, const void* x, DType dtype, std::int64_t columns,
                   float epsilon) {
  RowBuffer buffer;
  double sum = 0;
  for_row_parts(columns, [&](Range part) {
    sum += kernels.sum_of_squares(load_part(kernels, x, dtype, part, buffer), part.size());
  });
  return 1 / std::sqrt(sum / static_cast<double>(columns) + static_cast<double>(epsilon));
}

void check_norm(const char* op, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon) {
  check_matrix(op, "x_TK", x_TK, x_TK.tokens, x_TK.dim);
  check_matrix(op, "w_K", w_K, 1, x_TK.dim);
  check_float_or(op, "w_K", w_K, x_TK.dtype);
  check_argument(epsilon >= 0, op, "expected an epsilon of at least 0, got {}", epsilon);
}

struct NormBackward {
  const ConstTensor &x, &w, &dy;
  float epsilon;
  const Tensor& dx;
  bool accumulate;
};

/// dx of one token; adds its share of dw to dw_K.
void backward_row(const RowKernels& kernels, const NormBackward& args, std::int64_t token, float* dw_K) {
  const std::int64_t columns = args.x.dim;
  const void *x_row = row_of(args.x, token), *dy_row = row_of(args.dy, token), *w_row = args.w.data;
  void* dx_row = row_of(args.dx, token);
  RowBuffer x, w, dy, dx;
  const double s = inverse_rms(kernels, x_row, args.x.dtype, columns, args.epsilon);
  double product = 0;
  for_row_parts(columns, [&](Range part) {
    product += kernels.dot3(load_part(kernels, x_row, args.x.dtype, part, x),
                            load_part(kernels, w_row, args.w.dtype, part, w),
                            load_part(kernels, dy_row, args.dy.dtype, part, dy), part.size());
  });
  const float s_c[2] = {static_cast<float>(s),
                        static_cast<float>(s * s * s * product / static_cast<double>(columns))};
  for_row_parts(columns, [&](Range part) {
    float* out = target_part(dx_row, args.dx.dtype, part, args.accumulate, dx);
    kernels.rms_backward(
        load_part(kernels, x_row, args.x.dtype, part, x), load_part(kernels, w_row, args.w.dtype, part, w),
        load_part(kernels, dy_row, args.dy.dtype, part, dy), s_c, out, dw_K + part.begin, part.size());
    store_part(kernels, out, dx_row, args.dx.dtype, part, args.accumulate);
  });
}

}  // namespace

void rms_norm_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                      const Tensor& y_TK) {
  constexpr auto op = "rms_norm_forward";
  check_norm(op, x_TK, w_K, epsilon);
  check_matrix(op, "y_TK", y_TK, x_TK.tokens, x_TK.dim);
  check_float_or(op, "y_TK", y_TK, x_TK.dtype);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_row_blocks(stream, x_TK.tokens, x_TK.dim, [&](Range tokens, int) {
    RowBuffer x, w, y;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      const void* x_row = row_of(x_TK, token);
      void* y_row = row_of(y_TK, token);
      const auto s = static_cast<float>(inverse_rms(kernels, x_row, x_TK.dtype, x_TK.dim, epsilon));
      for_row_parts(x_TK.dim, [&](Range part) {
        float* out = target_part(y_row, y_TK.dtype, part, false, y);
        kernels.rms_forward(load_part(kernels, x_row, x_TK.dtype, part, x),
                            load_part(kernels, w_K.data, w_K.dtype, part, w), s, out, part.size());
        store_part(kernels, out, y_row, y_TK.dtype, part, false);
      });
    }
  });
}

void rms_norm_backward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                       const ConstTensor& dy_TK, const Tensor& dx_TK, Store store_dx, const Tensor& dw_K) {
  constexpr auto op = "rms_norm_backward";
  check_norm(op, x_TK, w_K, epsilon);
  check_matrix(op, "dy_TK", dy_TK, x_TK.tokens, x_TK.dim);
  check_float_or(op, "dy_TK", dy_TK, x_TK.dtype);
  check_matrix(op, "dx_TK", dx_TK, x_TK.tokens, x_TK.dim);
  check_float_or(op, "dx_TK", dx_TK, x_TK.dtype);
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
  stream.pool().run(blocks, [&](std::int64_t index, int) {
    float* sum = sums + index * columns;
    std::fill_n(sum, columns, 0.0f);
    for (std::int64_t token = index * block; token < std::min(tokens, (index + 1) * block); ++token)
      backward_row(kernels, args, token, sum);
  });
  auto* dw = static_cast<float*>(dw_K.data);
  for_row_blocks(stream, columns, blocks, [&](Range part, int) {
    for (std::int64_t index = 0; index < blocks; ++index)
      kernels.add(sums + index * columns + part.begin, dw + part.begin, part.size());
  });
}

}  // namespace rondo::kernels
