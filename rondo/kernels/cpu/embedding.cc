// Token embedding: rows of a table by id.

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

// Columns of one backward task: sixteen cache lines of a gradient row, its own alone.
constexpr std::int64_t kColumns = 256;

void check_ids(const char* op, std::span<const std::int32_t> ids, std::int64_t vocabulary) {
  for (std::size_t t = 0; t < ids.size(); ++t)
    check_argument(ids[t] >= 0 && ids[t] < vocabulary, op, "expected ids from 0 to {}, got {} at token {}",
                   vocabulary - 1, ids[t], t);
}

}  // namespace

void embedding_forward(Stream& stream, std::span<const std::int32_t> ids, const ConstTensor& table_VK,
                       const Tensor& y_TK) {
  constexpr auto op = "embedding_forward";
  check_matrix(op, "table_VK", table_VK, table_VK.tokens, table_VK.dim);
  check_matrix(op, "y_TK", y_TK, static_cast<std::int64_t>(ids.size()), table_VK.dim);
  check_ids(op, ids, table_VK.tokens);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_row_blocks(stream, y_TK.tokens, y_TK.dim, [&](Range tokens, int) {
    RowBuffer buffer;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      const void* from = row_of(table_VK, ids[static_cast<std::size_t>(token)]);
      void* to = row_of(y_TK, token);
      for_row_parts(y_TK.dim, [&](Range part) {
        store_part(kernels, load_part(kernels, from, table_VK.dtype, part, buffer), to, y_TK.dtype, part,
                   false);
      });
    }
  });
}

void embedding_backward(Stream& stream, std::span<const std::int32_t> ids, const ConstTensor& dy_TK,
                        const Tensor& dtable_VK) {
  constexpr auto op = "embedding_backward";
  check_matrix(op, "dtable_VK", dtable_VK, dtable_VK.tokens, dtable_VK.dim);
  check_matrix(op, "dy_TK", dy_TK, static_cast<std::int64_t>(ids.size()), dtable_VK.dim);
  check_dtype(op, "dtable_VK", dtable_VK, DType::f32);
  check_ids(op, ids, dtable_VK.tokens);
  const RowKernels& kernels = row_kernels(stream.isa());
  // A task owns columns, not tokens: an id may stand at many tokens, whose order must not change.
  stream.pool().run((dy_TK.dim + kColumns - 1) / kColumns, [&](std::int64_t index, int) {
    const Range part{index * kColumns, std::min(dy_TK.dim, (index + 1) * kColumns)};
    RowBuffer buffer;
    for (std::int64_t token = 0; token < dy_TK.tokens; ++token) {
      const float* dy = load_part(kernels, row_of(dy_TK, token), dy_TK.dtype, part, buffer);
      store_part(kernels, dy, row_of(dtable_VK, ids[static_cast<std::size_t>(token)]), DType::f32, part,
                 true);
    }
  });
}

}  // namespace rondo::kernels
