#include "rondo/core/isa.h"

#include <algorithm>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "rondo/core/error.h"

namespace rondo {

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

Isa detected_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa fastest_isa(const Processor& processor) {
  const bool slow_pairs = processor.is_intel && processor.has_fp16;
  return slow_pairs ? std::min(processor.supports, Isa::avx512) : processor.supports;
}

Isa default_isa() {
  Processor processor{.supports = detected_isa()};
#if defined(__x86_64__)
  __builtin_cpu_init();
  constexpr unsigned kFeatures = 7, kFp16 = 1u << 23;  // CPUID leaf 7, EDX: AVX512-FP16
  unsigned a = 0, b = 0, c = 0, d = 0;
  processor.is_intel = __builtin_cpu_is("intel");
  processor.has_fp16 = __get_cpuid_count(kFeatures, 0, &a, &b, &c, &d) != 0 && (d & kFp16) != 0;
#endif
  return fastest_isa(processor);
}

Isa parse_isa(std::string_view name) {
  if (name.empty()) return default_isa();
  for (const Isa isa : kEveryIsa) {
    if (name != name_of(isa)) continue;
    check_argument(isa <= detected_isa(), "isa", "expected a tier that this processor has (up to {}), got {}",
                   name_of(detected_isa()), name);
    return isa;
  }
  argument_error("isa", "expected portable, avx2, avx512 or avx512_bf16, got '{}'", name);
}

}  // namespace rondo
