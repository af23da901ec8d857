#pragma once
// The instruction-set tiers that were built into this library (CMake: RONDO_CPU_TIERS).

#include "rondo/core/isa.h"
#include "rondo/kernels/cpu/tier_types.h"

namespace rondo::kernels {

/// The best tier that was built and is not above `isa`: a stream never runs instructions that its isa did not
/// allow. It is below `isa` only where that tier was left out of RONDO_CPU_TIERS; Tier::name says what was
/// taken. Throws ArgumentError when nothing at or below `isa` was built.
const Tier& tier(Isa isa);

}  // namespace rondo::kernels
