#pragma once
// Words of the command line that say what to measure. Every function throws ArgumentError that names the
// option, what was expected and what was found.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"
#include "rondo/schedule/schedule.h"

namespace rondo::bench {

/// "4096,16384" -> {"4096", "16384"}; an empty text or entry is an error.
std::vector<std::string> parse_list(std::string_view option, std::string_view text);
/// A list of whole numbers from low to high.
std::vector<std::int64_t> parse_integers(std::string_view option, std::string_view text, std::int64_t low,
                                         std::int64_t high);

enum class Pass { forward, backward, both };
const char* name_of(Pass pass);
std::vector<Pass> parse_passes(std::string_view option, std::string_view text);

std::vector<DType> parse_dtypes(std::string_view option, std::string_view text);  ///< f32, bf16
const char* short_name(DType dtype);                                              ///< f32, bf16

/// "none", "causal" or "window:N": N tokens back, the token itself included.
std::vector<Mask> parse_masks(std::string_view option, std::string_view text);
std::string name_of(const Mask& mask);

std::vector<Layout> parse_layouts(std::string_view option, std::string_view text);
/// Tiers that this processor has; "" is the best of them.
std::vector<Isa> parse_isas(std::string_view text);

/// Query-key pairs whose work counts: N^2 without a mask, half of it when causal, every visible pair of a
/// window.
double counted_pairs(const Mask& mask, std::int64_t tokens);
/// Useful operations of attention on one head of size d: 4 d a pair forward (two products), 10 d backward
/// (five; Dao 2023, arXiv 2307.08691, section 4.1), 14 d for both.
double attention_flops(Pass pass, const Mask& mask, std::int64_t tokens, std::int64_t head_dim);

}  // namespace rondo::bench
