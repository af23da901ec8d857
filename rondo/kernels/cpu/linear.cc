// Linear layers: the three products of a weight, all through product().

#include "rondo/kernels/cpu/product.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

Operand as_stored(const ConstTensor& x) { return {x.data, x.dtype, x.token_stride, 1}; }
Operand transposed(const ConstTensor& x) { return {x.data, x.dtype, 1, x.token_stride}; }

}  // namespace

void linear_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_NK, const Tensor& y_TN,
                    Store store) {
  constexpr auto op = "linear_forward";
  check_matrix(op, "x_TK", x_TK, x_TK.tokens, x_TK.dim);
  check_matrix(op, "w_NK", w_NK, w_NK.tokens, x_TK.dim);
  check_matrix(op, "y_TN", y_TN, x_TK.tokens, w_NK.tokens);
  check_dtype(op, "w_NK", w_NK, x_TK.dtype);
  check_float_or(op, "y_TN", y_TN, x_TK.dtype);
  product(stream, {.m = x_TK.tokens,
                   .n = w_NK.tokens,
                   .k = x_TK.dim,
                   .a = as_stored(x_TK),
                   .b = transposed(w_NK),
                   .c = y_TN.data,
                   .c_dtype = y_TN.dtype,
                   .c_row_stride = y_TN.token_stride,
                   .accumulate = store == Store::accumulate});
}

void linear_backward_input(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& w_NK,
                           const Tensor& dx_TK, Store store) {
  constexpr auto op = "linear_backward_input";
  check_matrix(op, "dy_TN", dy_TN, dy_TN.tokens, dy_TN.dim);
  check_matrix(op, "w_NK", w_NK, dy_TN.dim, w_NK.dim);
  check_matrix(op, "dx_TK", dx_TK, dy_TN.tokens, w_NK.dim);
  check_dtype(op, "w_NK", w_NK, dy_TN.dtype);
  check_float_or(op, "dx_TK", dx_TK, dy_TN.dtype);
  product(stream, {.m = dy_TN.tokens,
                   .n = w_NK.dim,
                   .k = dy_TN.dim,
                   .a = as_stored(dy_TN),
                   .b = as_stored(w_NK),
                   .c = dx_TK.data,
                   .c_dtype = dx_TK.dtype,
                   .c_row_stride = dx_TK.token_stride,
                   .accumulate = store == Store::accumulate});
}

void linear_backward_weight(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& x_TK,
                            const Tensor& dw_NK) {
  constexpr auto op = "linear_backward_weight";
  check_matrix(op, "dy_TN", dy_TN, dy_TN.tokens, dy_TN.dim);
  check_matrix(op, "x_TK", x_TK, dy_TN.tokens, x_TK.dim);
  check_matrix(op, "dw_NK", dw_NK, dy_TN.dim, x_TK.dim);
  check_dtype(op, "x_TK", x_TK, dy_TN.dtype);
  check_dtype(op, "dw_NK", dw_NK, DType::f32);
  product(stream, {.m = dy_TN.dim,
                   .n = x_TK.dim,
                   .k = dy_TN.tokens,
                   .a = transposed(dy_TN),
                   .b = as_stored(x_TK),
                   .c = dw_NK.data,
                   .c_row_stride = dw_NK.token_stride,
                   .accumulate = true});
}

}  // namespace rondo::kernels
