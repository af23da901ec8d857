// Linear layers: the three products of a weight, and its packed forms.

#include "rondo/kernels/cpu/product.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

/// The columns of the second factor: the weight's rows forward, its columns backward.
FactorSource columns_of(const ConstTensor& w_NK, WeightUse use) {
  const bool forward = use == WeightUse::forward;
  return {.data = w_NK.data,
          .is_bf16 = w_NK.dtype == DType::bf16,
          .across = !forward,
          .stride = w_NK.token_stride,
          .lines = forward ? w_NK.tokens : w_NK.dim,
          .terms = forward ? w_NK.dim : w_NK.tokens};
}

ProductArgs product_of(const ConstTensor& x, const Tensor& y, Store store) {
  return {.m = x.tokens,
          .n = y.dim,
          .k = x.dim,
          .dtype = x.dtype,
          .a = x.data,
          .a_row_stride = x.token_stride,
          .c = y.data,
          .c_dtype = y.dtype,
          .c_row_stride = y.token_stride,
          .accumulate = store == Store::accumulate};
}

/// Checks x [T, terms] · weight -> y [T, lines].
struct ProductCheck {
  const char *operation, *x_name, *y_name;
  void operator()(const ConstTensor& x, std::int64_t terms, const Tensor& y, std::int64_t lines) const {
    check_matrix(operation, x_name, x, x.tokens, terms);
    check_matrix(operation, y_name, y, x.tokens, lines);
    check_float_or(operation, y_name, y, x.dtype);
  }
};
constexpr ProductCheck kForward{"linear_forward", "x_TK", "y_TN"};
constexpr ProductCheck kBackward{"linear_backward_input", "dy_TN", "dx_TK"};

void packed_product(Stream& stream, const ProductCheck& check, const ConstTensor& x, const PackedWeight& w,
                    const Tensor& y, Store store, WeightUse use) {
  const bool forward = use == WeightUse::forward;
  check_argument(w.use == use, check.operation,
                 "expected a weight packed for the {} product, got one for the {}", name_of(use),
                 name_of(w.use));
  check_argument(w.isa == stream.isa(), check.operation, "expected a weight packed for {}, got one for {}",
                 rondo::name_of(stream.isa()), rondo::name_of(w.isa));
  check(x, forward ? w.columns : w.rows, y, forward ? w.rows : w.columns);
  check_dtype(check.operation, check.x_name, x, w.dtype);
  ProductArgs args = product_of(x, y, store);
  args.packed = static_cast<const std::uint32_t*>(w.data);
  product(stream, args);
}

}  // namespace

const char* name_of(WeightUse use) { return use == WeightUse::forward ? "forward" : "backward input"; }

std::int64_t packed_weight_bytes(Isa isa, DType dtype, std::int64_t rows, std::int64_t columns,
                                 WeightUse use) {
  check_argument(rows >= 0 && columns >= 0, "packed_weight_bytes",
                 "expected extents of at least 0, got {} x {}", rows, columns);
  const bool forward = use == WeightUse::forward;
  return 4 * packed_words(isa, dtype, forward ? rows : columns, forward ? columns : rows);
}

PackedWeight pack_weight(Stream& stream, const ConstTensor& w_NK, WeightUse use, void* memory) {
  constexpr auto op = "pack_weight";
  check_matrix(op, "w_NK", w_NK, w_NK.tokens, w_NK.dim);
  check_argument(memory != nullptr || w_NK.elements() == 0, op, "expected memory for {}, got null",
                 "the form");
  pack_columns(stream, columns_of(w_NK, use), static_cast<std::uint32_t*>(memory));
  return {.data = memory,
          .dtype = w_NK.dtype,
          .rows = w_NK.tokens,
          .columns = w_NK.dim,
          .use = use,
          .isa = stream.isa()};
}

void linear_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_NK, const Tensor& y_TN,
                    Store store) {
  check_matrix("linear_forward", "w_NK", w_NK, w_NK.tokens, x_TK.dim);
  kForward(x_TK, x_TK.dim, y_TN, w_NK.tokens);
  check_dtype("linear_forward", "w_NK", w_NK, x_TK.dtype);
  ProductArgs args = product_of(x_TK, y_TN, store);
  args.b = columns_of(w_NK, WeightUse::forward);
  product(stream, args);
}

void linear_forward(Stream& stream, const ConstTensor& x_TK, const PackedWeight& w_NK, const Tensor& y_TN,
                    Store store) {
  packed_product(stream, kForward, x_TK, w_NK, y_TN, store, WeightUse::forward);
}

void linear_backward_input(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& w_NK,
                           const Tensor& dx_TK, Store store) {
  check_matrix("linear_backward_input", "w_NK", w_NK, dy_TN.dim, w_NK.dim);
  kBackward(dy_TN, dy_TN.dim, dx_TK, w_NK.dim);
  check_dtype("linear_backward_input", "w_NK", w_NK, dy_TN.dtype);
  ProductArgs args = product_of(dy_TN, dx_TK, store);
  args.b = columns_of(w_NK, WeightUse::backward_input);
  product(stream, args);
}

void linear_backward_input(Stream& stream, const ConstTensor& dy_TN, const PackedWeight& w_NK,
                           const Tensor& dx_TK, Store store) {
  packed_product(stream, kBackward, dy_TN, w_NK, dx_TK, store, WeightUse::backward_input);
}

void linear_backward_weight(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& x_TK,
                            const Tensor& dw_NK) {
  constexpr auto op = "linear_backward_weight";
  check_matrix(op, "dy_TN", dy_TN, dy_TN.tokens, dy_TN.dim);
  check_matrix(op, "x_TK", x_TK, dy_TN.tokens, x_TK.dim);
  check_matrix(op, "dw_NK", dw_NK, dy_TN.dim, x_TK.dim);
  check_dtype(op, "x_TK", x_TK, dy_TN.dtype);
  check_dtype(op, "dw_NK", dw_NK, DType::f32);
  outer_product(stream, {.m = dy_TN.dim,
                         .n = x_TK.dim,
                         .k = dy_TN.tokens,
                         .dtype = dy_TN.dtype,
                         .a = dy_TN.data,
                         .b = x_TK.data,
                         .a_row_stride = dy_TN.token_stride,
                         .b_row_stride = x_TK.token_stride,
                         .c = static_cast<float*>(dw_NK.data),
                         .c_row_stride = dw_NK.token_stride});
}

}  // namespace rondo::kernels
