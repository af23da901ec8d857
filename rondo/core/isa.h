#pragma once
// Instruction-set tiers of the CPU kernels.

#include <array>
#include <string_view>

namespace rondo {

/// In rising order: each includes the ones before it. avx512_bf16 adds the dot product of bfloat16 pairs.
enum class Isa { portable, avx2, avx512, avx512_bf16 };
inline constexpr std::array kEveryIsa{Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

const char* name_of(Isa isa);

/// The best tier that this processor supports (CPUID), whether or not it was built in.
Isa detected_isa();

/// The tier named `name`; throws ArgumentError naming the tiers there are. "" means detected_isa().
/// Throws when the processor lacks the tier: a forced tier is never replaced silently.
Isa parse_isa(std::string_view name);

}  // namespace rondo
