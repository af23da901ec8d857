#pragma once
// Between tensors of the engine and the reference's plain vectors of double, and seeded random inputs.

#include <cstdint>
#include <vector>

#include "rondo/core/tensor.h"

namespace rondo::reference {

/// The elements of a view (any strides) in the order [tokens, heads, dim].
std::vector<double> to_doubles(const ConstTensor& tensor);

/// Writes values (ordered [tokens, heads, dim]) into the view, rounded to float32 and from there to its
/// dtype. Throws ArgumentError unless there is one value for each element.
void from_doubles(const std::vector<double>& values, const Tensor& tensor);

/// What values become when they are stored as `dtype`: from_doubles and back.
std::vector<double> rounded(const std::vector<double>& values, DType dtype);

/// `count` standard normal numbers (Box, Muller 1958) that depend on seed, stream and index alone.
std::vector<double> standard_normal(std::int64_t count, std::uint64_t seed, std::uint64_t stream = 0);

/// Fills the view with `scale` times standard_normal, rounded to its dtype.
void fill_standard_normal(const Tensor& tensor, std::uint64_t seed, std::uint64_t stream = 0,
                          double scale = 1);

/// The largest |a - b|; infinity where one of the two is NaN or the sizes differ. Equal infinities differ by
/// 0.
double max_difference(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace rondo::reference
