// SwiGLU, copies and sums of tensors.

#include <cstring>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

template <class Pointer>
void check_same_shape(const char* op, const char* name, const BasicTensor<Pointer>& x,
                      const ConstTensor& like) {
  check_argument(x.tokens == like.tokens && x.heads == like.heads && x.dim == like.dim, op,
                 "expected {} of shape [{}, {}, {}], got [{}, {}, {}]", name, like.tokens, like.heads,
                 like.dim, x.tokens, x.heads, x.dim);
  check_memory(op, name, x);
}

/// Rows of a tensor that lie without gaps, as long as can be: the whole tensor, a token or a head.
struct Rows {
  std::int64_t outer = 0, inner = 1, length = 0;
};

/// The longest rows that are contiguous in both tensors; whole tensors become rows of a task each.
Rows common_rows(const ConstTensor& x, const ConstTensor& y) {
  if (x.contiguous() && y.contiguous()) return {1, 1, x.elements()};
  const bool tokens_whole = x.heads == 1 || (x.head_stride == x.dim && y.head_stride == y.dim);
  return tokens_whole ? Rows{x.tokens, 1, x.row()} : Rows{x.tokens, x.heads, x.dim};
}

/// Calls body(x row, y row, part of the row) for all parts of rows of two tensors of one shape.
template <class Body>
void for_common_parts(Stream& stream, const ConstTensor& x, const Tensor& y, const Body& body) {
  if (x.elements() == 0) return;
  const Rows rows = common_rows(x, y);
  if (rows.outer == 1 && rows.inner == 1) {
    for_row_blocks(stream, rows.length, 1, [&](Range range, int) {
      for (std::int64_t begin = range.begin; begin < range.end; begin += kRowPart)
        body(x.data, y.data, Range{begin, std::min(range.end, begin + kRowPart)});
    });
    return;
  }
  for_row_blocks(stream, rows.outer, x.row(), [&](Range tokens, int) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
      for (std::int64_t head = 0; head < rows.inner; ++head)
        for_row_parts(rows.length,
                      [&](Range part) { body(row_of(x, token, head), row_of(y, token, head), part); });
  });
}

std::size_t bytes_of(Range part, DType dtype) {
  return static_cast<std::size_t>(part.size() * size_of(dtype));
}

template <class Pointer>
Pointer at(Pointer row, DType dtype, std::int64_t offset) {
  return view(row, dtype, offset + 1, 1, 1).slice({offset, offset + 1}).data;
}

}  // namespace

void swiglu_forward(Stream& stream, const ConstTensor& gate_TK, const ConstTensor& up_TK,
                    const Tensor& y_TK) {
  const auto check = [&](const char* name, const auto& x) {
    check_matrix("swiglu_forward", name, x, gate_TK.tokens, gate_TK.dim);
    check_dtype("swiglu_forward", name, x, gate_TK.dtype);
  };
  check("gate_TK", gate_TK), check("up_TK", up_TK), check("y_TK", y_TK);
  with_stored(row_kernels(stream.isa()), gate_TK.dtype, [&](const auto& kernels, auto element) {
    using T = decltype(element);
    for_row_blocks(stream, gate_TK.tokens, gate_TK.dim, [&](Range tokens, int) {
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        kernels.swiglu_forward(row_as<T>(gate_TK, token), row_as<T>(up_TK, token), row_as<T>(y_TK, token),
                               gate_TK.dim);
    });
  });
}

void swiglu_backward(Stream& stream, const ConstTensor& gate_TK, const ConstTensor& up_TK,
                     const ConstTensor& dy_TK, const SwigluGradients& to) {
  const auto check = [&](const char* name, const auto& x) {
    check_matrix("swiglu_backward", name, x, gate_TK.tokens, gate_TK.dim);
    check_dtype("swiglu_backward", name, x, gate_TK.dtype);
  };
  check("gate_TK", gate_TK), check("up_TK", up_TK), check("dy_TK", dy_TK);
  check("dgate_TK", to.dgate_TK), check("dup_TK", to.dup_TK), check("y_TK", to.y_TK);
  with_stored(row_kernels(stream.isa()), gate_TK.dtype, [&](const auto& kernels, auto element) {
    using T = decltype(element);
    for_row_blocks(stream, gate_TK.tokens, gate_TK.dim, [&](Range tokens, int) {
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        T* const results[3] = {row_as<T>(to.dgate_TK, token), row_as<T>(to.dup_TK, token),
                               row_as<T>(to.y_TK, token)};
        kernels.swiglu_backward(row_as<T>(gate_TK, token), row_as<T>(up_TK, token), row_as<T>(dy_TK, token),
                                results, gate_TK.dim);
      }
    });
  });
}

void copy(Stream& stream, const ConstTensor& x, const Tensor& y) {
  check_memory("copy", "x", x);
  check_same_shape("copy", "y", y, x);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_common_parts(stream, x, y, [&](const void* from, void* to, Range part) {
    if (x.dtype == y.dtype) {
      std::memcpy(at(to, y.dtype, part.begin), at(from, x.dtype, part.begin), bytes_of(part, x.dtype));
    } else if (x.dtype == DType::bf16) {
      kernels.widen(static_cast<const bfloat16*>(from) + part.begin, static_cast<float*>(to) + part.begin,
                    part.size());
    } else {
      kernels.narrow(static_cast<const float*>(from) + part.begin, static_cast<bfloat16*>(to) + part.begin,
                     part.size());
    }
  });
}

void add(Stream& stream, const ConstTensor& x, const Tensor& y) {
  check_memory("add", "x", x);
  check_same_shape("add", "y", y, x);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_common_parts(stream, x, y, [&](const void* from, void* to, Range part) {
    RowBuffer buffer;
    store_part(kernels, load_part(kernels, from, x.dtype, part, buffer), to, y.dtype, part, true);
  });
}

void fill_zero(Stream& stream, const Tensor& y) {
  check_memory("fill_zero", "y", y);
  for_common_parts(stream, y, y, [&](const void*, void* to, Range part) {
    std::memset(at(to, y.dtype, part.begin), 0, bytes_of(part, y.dtype));
  });
}

}  // namespace rondo::kernels
