#include "rondo/core/isa.h"

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

Isa parse_isa(std::string_view name) {
  if (name.empty()) return detected_isa();
  for (const Isa isa : kEveryIsa) {
    if (name != name_of(isa)) continue;
    check_argument(isa <= detected_isa(), "isa", "expected a tier that this processor has (up to {}), got {}",
                   name_of(detected_isa()), name);
    return isa;
  }
  argument_error("isa", "expected portable, avx2, avx512 or avx512_bf16, got '{}'", name);
}

}  // namespace rondo
