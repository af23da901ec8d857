#pragma once
// Instruction-set tiers of the CPU kernels.

#include <array>
#include <string_view>

namespace rondo {

/// In rising order: each includes the ones before it. avx512_bf16 adds the dot product of bfloat16 pairs.
enum class Isa { portable, avx2, avx512, avx512_bf16 };
inline constexpr std::array kEveryIsa{Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

const char* name_of(Isa isa);

/// The highest tier that this processor supports (CPUID), whether or not it was built in.
Isa detected_isa();

/// What decides which tier is the fastest.
struct Processor {
  Isa supports = Isa::portable;
  bool is_intel = false;
  bool has_fp16 = false;  ///< AVX512-FP16: Intel's from Sapphire Rapids on
};
/// The highest tier that the processor supports, but for Intel's with AVX512-FP16: their dot product of
/// bfloat16 pairs takes four times as long as a multiply-add, so that widening is faster (docs/kernels.md,
/// "Tiers").
Isa fastest_isa(const Processor& processor);
/// fastest_isa() of this processor: what runs unless another tier is asked for.
Isa default_isa();

/// The tier named `name`; throws ArgumentError naming the tiers there are. "" means default_isa().
/// Throws when the processor lacks the tier: a forced tier is never replaced silently.
Isa parse_isa(std::string_view name);

}  // namespace rondo
