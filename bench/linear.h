#pragma once
// bench linear: the three products of a linear layer.

#include <string>
#include <vector>

#include "bench/measure.h"
#include "bench/row.h"
#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"

namespace rondo::bench {

/// y = x·w^T; dx = dy·w; dw += dy^T·x; dx and dw; all three.
enum class LinearPass { forward, dx, dw, backward, both };
const char* name_of(LinearPass pass);
/// ArgumentError names the option, what was expected and what was found.
std::vector<LinearPass> parse_linear_passes(std::string_view option, std::string_view text);

struct LinearCase {
  DType dtype = DType::f32;
  std::int64_t m = 0, n = 0, k = 0;  ///< tokens, outputs, inputs of each token
  /// Weights in the form of their use, made once before the runs as training does once a step; or as stored.
  bool packed = true;
  int threads = 1;
  Isa isa = default_isa();
};

/// 2·m·n·k for each product.
double linear_flops(LinearPass pass, const LinearCase& what);

/// Verifies rows of each product against the reference, then times them; y and dx are stored as `dtype`.
Row bench_linear(const LinearCase& what, LinearPass pass, const MeasureOptions& options);

}  // namespace rondo::bench
