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

/// 1 / sqrt(mean(x^2) + epsilon) of one row.
double inverse_rms(const RowKernels& kernels, const void* x, DType dtype, std::int64_t columns,
                   float epsilon) {
  double sum = 0;
  with_stored(kernels, dtype, [&](const auto& stored, auto element) {
    sum = stored.sum_of_squares(static_cast<const decltype(element)*>(x), columns);
  });
  return inverse_rms(sum, columns, epsilon);
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

/// The factors s and c of RowKernels::rms_backward for one row.
struct BackwardFactors {
  BackwardFactors(double s, double product, std::int64_t columns)
      : s_c{static_cast<float>(s), static_cast<float>(s * s * s * product / static_cast<double>(columns))} {}
  float s_c[2];
};

/// dx of one token; adds its share of dw to dw_K. For x and w of T, dy and dx in float32.
template <class T>
void backward_stored_row(const StoredRows<T>& stored, const NormBackward& args, std::int64_t token,
                         float* dw_K) {
  const std::int64_t columns = args.x.dim;
  const T *x = row_as<T>(args.x, token), *w = row_as<T>(args.w, 0);
  const auto* dy = row_as<float>(args.dy, token);
  const double s = inverse_rms(stored.sum_of_squares(x, columns), columns, args.epsilon);
  const BackwardFactors factors(s, stored.dot3(x, w, dy, columns), columns);
  const auto add = args.accumulate ? stored.rms_backward_add : stored.rms_backward;
  add(x, w, dy, factors.s_c, row_as<float>(args.dx, token), dw_K, columns);
}

/// The same for any storage types.
void backward_row(const RowKernels& kernels, const NormBackward& args, std::int64_t token, float* dw_K) {
  const std::int64_t columns = args.x.dim;
  const void *x_row = row_of(args.x, token), *dy_row = row_of(args.dy, token), *w_row = args.w.data;
  void* dx_row = row_of(args.dx, token);
  RowBuffer x, w, dy, dx;
  const double s = inverse_rms(kernels, x_row, args.x.dtype, columns, args.epsilon);
  double product = 0;
  for_row_parts(columns, [&](Range part) {
    product += kernels.f32.dot3(load_part(kernels, x_row, args.x.dtype, part, x),
                                load_part(kernels, w_row, args.w.dtype, part, w),
                                load_part(kernels, dy_row, args.dy.dtype, part, dy), part.size());
  });
  const BackwardFactors factors(s, product, columns);
  for_row_parts(columns, [&](Range part) {
    float* out = target_part(dx_row, args.dx.dtype, part, args.accumulate, dx);
    kernels.f32.rms_backward(load_part(kernels, x_row, args.x.dtype, part, x),
                             load_part(kernels, w_row, args.w.dtype, part, w),
                             load_part(kernels, dy_row, args.dy.dtype, part, dy), factors.s_c, out,
                             dw_K + part.begin, part.size());
    store_part(kernels, out, dx_row, args.dx.dtype, part, args.accumulate);
  });
}

void backward_rows(const RowKernels& kernels, const NormBackward& args, Range tokens, float* dw_K) {
  const bool stored =
      args.w.dtype == args.x.dtype && args.dy.dtype == DType::f32 && args.dx.dtype == DType::f32;
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    if (stored)
      with_stored(kernels, args.x.dtype,
                  [&](const auto& rows, auto) { backward_stored_row(rows, args, token, dw_K); });
    else
      backward_row(kernels, args, token, dw_K);
  }
}

/// y of one token, of any storage types.
void forward_row(const RowKernels& kernels, const ConstTensor& x_TK, const ConstTensor& w_K, float s,
                 const Tensor& y_TK, std::int64_t token) {
  RowBuffer x, w, y;
  void* y_row = row_of(y_TK, token);
  for_row_parts(x_TK.dim, [&](Range part) {
    float* out = target_part(y_row, y_TK.dtype, part, false, y);
    kernels.f32.rms_forward(load_part(kernels, row_of(x_TK, token), x_TK.dtype, part, x),
                            load_part(kernels, w_K.data, w_K.dtype, part, w), s, out, part.size());
    store_part(kernels, out, y_row, y_TK.dtype, part, false);
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
  const bool stored = w_K.dtype == x_TK.dtype && y_TK.dtype == x_TK.dtype;
  for_row_blocks(stream, x_TK.tokens, x_TK.dim, [&](Range tokens, int) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      const auto s =
          static_cast<float>(inverse_rms(kernels, row_of(x_TK, token), x_TK.dtype, x_TK.dim, epsilon));
      if (stored)
        with_stored(kernels, x_TK.dtype, [&](const auto& rows, auto element) {
          using T = decltype(element);
          rows.rms_forward(row_as<T>(x_TK, token), row_as<T>(w_K, 0), s, row_as<T>(y_TK, token), x_TK.dim);
        });
      else
        forward_row(kernels, x_TK, w_K, s, y_TK, token);
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
    backward_rows(kernels, args, {index * block, std::min(tokens, (index + 1) * block)}, sum);
  });
  auto* dw = static_cast<float*>(dw_K.data);
  for_row_blocks(stream, columns, blocks, [&](Range part, int) {
    for (std::int64_t index = 0; index < blocks; ++index)
      kernels.add(sums + index * columns + part.begin, dw + part.begin, part.size());
  });
}

}  // namespace rondo::kernels
