#pragma once
// Loops over one row of numbers: all arithmetic of the element-wise kernels. rows.tier.cc is compiled once
// per instruction-set tier; what cuts tensors into rows and tasks is baseline code and comes here through a
// table. Sums run in an order fixed by n and the tier.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"
#include "rondo/core/tensor.h"

namespace rondo::kernels {

/// One step of AdamW, its constants worked out in double.
struct AdamWRow {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float keep;                     ///< 1 - learning rate * weight decay
  float step_size;                ///< learning rate / first bias correction
  float inverse_root_correction;  ///< 1 / sqrt(second bias correction)
  float epsilon;
};

/// What works on rows as they are stored, without a pass that widens them and one that narrows.
template <class T>
struct StoredRows {
  double (*sum_of_squares)(const T* x, std::int64_t n);

  /// sum of x * w * dy
  double (*dot3)(const T* x, const T* w, const float* dy, std::int64_t n);
  /// y = x * w * s
  void (*rms_forward)(const T* x, const T* w, float s, T* y, std::int64_t n);
  /// dw += dy * x * s; dx = or += dy * w * s - x * c; dx may lie over dy.
  void (*rms_backward)(const T* x, const T* w, const float* dy, const float s_c[2], float* dx, float* dw,
                       std::int64_t n);
  void (*rms_backward_add)(const T* x, const T* w, const float* dy, const float s_c[2], float* dx, float* dw,
                           std::int64_t n);

  /// (a, b) = (a cos - sign b sin, b cos + sign a sin)
  void (*rotate_halves)(T* a, T* b, const float* cos_sin[2], float sign, std::int64_t n);
  /// The same of a = x[2i], b = x[2i + 1].
  void (*rotate_interleaved)(T* x, const float* cos_sin[2], float sign, std::int64_t n);

  void (*swiglu_forward)(const T* gate, const T* up, T* y, std::int64_t n);
  /// dgate_dup_y: the first two may lie over gate and up; y is what swiglu_forward gives, to the bit.
  void (*swiglu_backward)(const T* gate, const T* up, const T* dy, T* const dgate_dup_y[3], std::int64_t n);
};

struct ProductKernels;

struct RowKernels {
  void (*widen)(const bfloat16* x, float* y, std::int64_t n);
  void (*narrow)(const float* x, bfloat16* y, std::int64_t n);
  /// y += x
  void (*add)(const float* x, float* y, std::int64_t n);

  StoredRows<float> f32;
  StoredRows<bfloat16> bf16;

  float (*maximum)(const float* x, std::int64_t n);
  /// sum of exp(x - maximum)
  double (*sum_exp)(const float* x, float maximum, std::int64_t n);
  /// The same sum to the bit, and x = exp(x - maximum).
  double (*exp_in_place)(float* x, float maximum, std::int64_t n);
  /// x *= s
  void (*scale)(float* x, float s, std::int64_t n);
  /// sum of x * y
  double (*dot)(const float* x, const float* y, std::int64_t n);
  /// dp = p * (dp - delta) * s
  void (*softmax_backward)(const float* p, float delta, float s, float* dp, std::int64_t n);

  void (*adamw)(const AdamWRow& step, float* parameters, const float* gradients, float* first, float* second,
                std::int64_t n);

  /// Multiplications and additions in registers alone; returns something that depends on all of them.
  float (*multiply_add)(std::int64_t rounds);
  std::int64_t multiply_add_flops;  ///< of one round
  /// The same with products of bfloat16 pairs where the tier has them, else multiply_add.
  float (*multiply_add_pairs)(std::int64_t rounds);
  std::int64_t multiply_add_pairs_flops;

  const ProductKernels* products;  ///< of the same tier (product_kernels.h)
  /// Reads all of x; the sum of its whole 32-bit words.
  std::uint32_t (*read_sum)(const std::byte* x, std::int64_t bytes);
};

/// Calls body with the functions for rows of T and a T.
template <class Body>
void with_stored(const RowKernels& kernels, DType dtype, const Body& body) {
  dtype == DType::f32 ? body(kernels.f32, float{}) : body(kernels.bf16, bfloat16{});
}

/// Those of the tier, or of the best lower tier that was built.
const RowKernels& row_kernels(Isa isa);

/// Columns that are widened at a time: a few of these buffers stay in the first-level cache.
inline constexpr std::int64_t kRowPart = 1024;
struct alignas(64) RowBuffer {
  float values[kRowPart];
};

/// Calls body(Range) for parts of [0, n) of at most kRowPart.
template <class Body>
void for_row_parts(std::int64_t n, const Body& body) {
  for (std::int64_t begin = 0; begin < n; begin += kRowPart)
    body(Range{begin, std::min(n, begin + kRowPart)});
}

/// A part of a row as float32: in place, or widened into `buffer`.
inline const float* load_part(const RowKernels& kernels, const void* row, DType dtype, Range part,
                              RowBuffer& buffer) {
  if (dtype == DType::f32) return static_cast<const float*>(row) + part.begin;
  kernels.widen(static_cast<const bfloat16*>(row) + part.begin, buffer.values, part.size());
  return buffer.values;
}

/// Where a part of a row is to be computed before store_part: in place, or `buffer`.
inline float* target_part(void* row, DType dtype, Range part, bool accumulate, RowBuffer& buffer) {
  return dtype == DType::f32 && !accumulate ? static_cast<float*>(row) + part.begin : buffer.values;
}

/// Brings what was computed at target_part into the row.
void store_part(const RowKernels& kernels, const float* values, void* row, DType dtype, Range part,
                bool accumulate);

/// row = values or row += values, for any n.
inline void store_row(const RowKernels& kernels, const float* values, void* row, DType dtype, std::int64_t n,
                      bool accumulate) {
  for_row_parts(n,
                [&](Range part) { store_part(kernels, values + part.begin, row, dtype, part, accumulate); });
}

}  // namespace rondo::kernels
