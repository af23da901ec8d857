#include "rondo/kernels/cpu/tier.h"

#include "rondo/core/error.h"

namespace rondo::kernels {

#ifdef RONDO_TIER_AVX512_BF16
namespace avx512_bf16 {
extern const Tier kTable;
}
#endif
#ifdef RONDO_TIER_AVX512
namespace avx512 {
extern const Tier kTable;
}
#endif
#ifdef RONDO_TIER_AVX2
namespace avx2 {
extern const Tier kTable;
}
#endif
#ifdef RONDO_TIER_PORTABLE
namespace portable {
extern const Tier kTable;
}
#endif

const Tier& tier(Isa isa) {
#ifdef RONDO_TIER_AVX512_BF16
  if (isa >= Isa::avx512_bf16) return avx512_bf16::kTable;
#endif
#ifdef RONDO_TIER_AVX512
  if (isa >= Isa::avx512) return avx512::kTable;
#endif
#ifdef RONDO_TIER_AVX2
  if (isa >= Isa::avx2) return avx2::kTable;
#endif
#ifdef RONDO_TIER_PORTABLE
  if (isa >= Isa::portable) return portable::kTable;
#endif
  argument_error("kernels",
                 "expected a tier at or below {} among those built in (RONDO_CPU_TIERS), found none",
                 name_of(isa));
}

}  // namespace rondo::kernels
