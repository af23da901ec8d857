// Rotary position embedding (Su et al. 2021).

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

/// Calls turn(values) on `n` elements as float32 and brings them back. n is at most kRowPart.
template <class Turn>
void turn_in_place(const RowKernels& kernels, void* row, DType dtype, Range part, RowBuffer& buffer,
                   const Turn& turn) {
  const float* values = load_part(kernels, row, dtype, part, buffer);
  float* target = target_part(row, dtype, part, false, buffer);
  RONDO_ASSERT(values == target);
  turn(target);
  store_part(kernels, target, row, dtype, part, false);
}

void turn_head(const RowKernels& kernels, void* row, DType dtype, const Rotary& rotary, std::int64_t token,
               float sign) {
  RowBuffer left, right;
  // Half a part at a time, so that both elements of a pair fit where pairs are interleaved.
  for (std::int64_t begin = 0; begin < rotary.pairs; begin += kRowPart / 2) {
    const Range pairs{begin, std::min(rotary.pairs, begin + kRowPart / 2)};
    const float* cos_sin[2] = {rotary.cos_TP + token * rotary.pairs + begin,
                               rotary.sin_TP + token * rotary.pairs + begin};
    if (rotary.layout == RotaryPairs::halves) {
      turn_in_place(kernels, row, dtype, pairs, left, [&](float* a) {
        const Range others{pairs.begin + rotary.pairs, pairs.end + rotary.pairs};
        turn_in_place(kernels, row, dtype, others, right,
                      [&](float* b) { kernels.rotate_halves(a, b, cos_sin, sign, pairs.size()); });
      });
    } else {
      turn_in_place(kernels, row, dtype, {2 * pairs.begin, 2 * pairs.end}, left,
                    [&](float* x) { kernels.rotate_interleaved(x, cos_sin, sign, pairs.size()); });
    }
  }
}

}  // namespace

void rotary(Stream& stream, const Tensor& x_THD, const Rotary& rotary, RotaryDirection direction) {
  constexpr auto op = "rotary";
  check_memory(op, "x_THD", x_THD);
  check_argument(rotary.pairs >= 0 && 2 * rotary.pairs <= x_THD.dim, op,
                 "expected 0 to {} pairs in a head of {}, got {}", x_THD.dim / 2, x_THD.dim, rotary.pairs);
  if (x_THD.elements() == 0 || rotary.pairs == 0) return;
  check_argument(rotary.cos_TP != nullptr && rotary.sin_TP != nullptr, op,
                 "expected cosines and sines, got null");
  const RowKernels& kernels = row_kernels(stream.isa());
  const float sign = direction == RotaryDirection::forward ? 1.0f : -1.0f;
  for_row_blocks(stream, x_THD.tokens, x_THD.row(), [&](Range tokens, int) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
      for (std::int64_t head = 0; head < x_THD.heads; ++head)
        turn_head(kernels, row_of(x_THD, token, head), x_THD.dtype, rotary, token, sign);
  });
}

}  // namespace rondo::kernels
