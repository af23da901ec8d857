#include "rondo/kernels/cpu/rows.h"

#include "rondo/core/error.h"

namespace rondo::kernels {

#ifdef RONDO_TIER_PORTABLE
namespace portable {
const RowKernels& row_kernels();
}
#endif
#ifdef RONDO_TIER_AVX2
namespace avx2 {
const RowKernels& row_kernels();
}
#endif
#ifdef RONDO_TIER_AVX512_BF16
namespace avx512_bf16 {
const RowKernels& row_kernels();
}
#endif
#ifdef RONDO_TIER_AVX512
namespace avx512 {
const RowKernels& row_kernels();
}
#endif

const RowKernels& row_kernels([[maybe_unused]] Isa isa) {
#ifdef RONDO_TIER_AVX512_BF16
  if (isa >= Isa::avx512_bf16) return avx512_bf16::row_kernels();
#endif
#ifdef RONDO_TIER_AVX512
  if (isa >= Isa::avx512) return avx512::row_kernels();
#endif
#ifdef RONDO_TIER_AVX2
  if (isa >= Isa::avx2) return avx2::row_kernels();
#endif
#ifdef RONDO_TIER_PORTABLE
  return portable::row_kernels();
#else
  argument_error("kernels", "expected the portable tier or one that {} includes, got a build without",
                 name_of(isa));
#endif
}

void store_part(const RowKernels& kernels, const float* values, void* row, DType dtype, Range part,
                bool accumulate) {
  if (dtype == DType::f32) {
    float* to = static_cast<float*>(row) + part.begin;
    if (accumulate)
      kernels.add(values, to, part.size());
    else if (to != values)
      std::copy_n(values, part.size(), to);
    return;
  }
  bfloat16* to = static_cast<bfloat16*>(row) + part.begin;
  RowBuffer sum;
  if (accumulate) {
    kernels.widen(to, sum.values, part.size());
    kernels.add(values, sum.values, part.size());
    values = sum.values;
  }
  kernels.narrow(values, to, part.size());
}

}  // namespace rondo::kernels
