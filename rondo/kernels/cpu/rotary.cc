// Rotary position embedding (Su et al. 2021).

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

template <class T>
void turn_head(const StoredRows<T>& kernels, T* head, const Rotary& rotary, std::int64_t token, float sign) {
  const float* cos_sin[2] = {rotary.cos_TP + token * rotary.pairs, rotary.sin_TP + token * rotary.pairs};
  if (rotary.layout == RotaryPairs::halves)
    kernels.rotate_halves(head, head + rotary.pairs, cos_sin, sign, rotary.pairs);
  else
    kernels.rotate_interleaved(head, cos_sin, sign, rotary.pairs);
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
  with_stored(kernels, x_THD.dtype, [&](const auto& stored, auto element) {
    for_row_blocks(stream, x_THD.tokens, x_THD.row(), [&](Range tokens, int) {
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        for (std::int64_t head = 0; head < x_THD.heads; ++head)
          turn_head(stored, static_cast<decltype(element)*>(row_of(x_THD, token, head)), rotary, token, sign);
    });
  });
}

}  // namespace rondo::kernels
