#pragma once
// Matrices of tests: strided, with a guard around them, filled with random numbers; and devices to compute
// on.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/reference/convert.h"

namespace rondo::test {

/// The tiers that this processor can run.
inline std::vector<Isa> tiers() {
  std::vector<Isa> all;
  for (Isa isa : kEveryIsa)
    if (isa <= detected_isa()) all.push_back(isa);
  return all;
}

inline std::unique_ptr<Context> make_device(int threads = 1, Isa isa = detected_isa()) {
  return std::make_unique<Context>(ContextOptions{.threads = threads, .isa = isa});
}

/// A tensor with `gap` unused elements after each token. Copies own their memory.
class Matrix {
 public:
  Matrix(DType dtype, std::int64_t tokens, std::int64_t dim, std::int64_t gap = 0, std::int64_t heads = 1)
      : dtype_(dtype), tokens_(tokens), heads_(heads), dim_(dim), stride_(heads * dim + gap) {
    bytes_.assign(static_cast<std::size_t>((tokens * stride_ + 1) * size_of(dtype)), kGuard);
    reference::from_doubles(std::vector<double>(static_cast<std::size_t>(tokens * heads * dim)), tensor());
  }
  static Matrix random(DType dtype, std::int64_t tokens, std::int64_t dim, std::uint64_t seed,
                       std::int64_t gap = 0, double scale = 1) {
    Matrix matrix(dtype, tokens, dim, gap);
    reference::fill_standard_normal(matrix.tensor(), seed, 0, scale);
    return matrix;
  }

  Tensor tensor() { return {bytes_.data(), dtype_, tokens_, heads_, dim_, stride_, dim_}; }
  ConstTensor tensor() const { return {bytes_.data(), dtype_, tokens_, heads_, dim_, stride_, dim_}; }
  std::vector<double> values() const { return reference::to_doubles(tensor()); }
  const std::vector<std::uint8_t>& bytes() const { return bytes_; }
  void set(const std::vector<double>& values) { reference::from_doubles(values, tensor()); }

  /// Whether nothing was written between and behind the rows.
  bool guard_intact() const {
    const auto size = static_cast<std::size_t>(size_of(dtype_));
    const auto row = static_cast<std::size_t>(heads_ * dim_) * size,
               stride = static_cast<std::size_t>(stride_) * size;
    for (std::size_t at = 0; at < bytes_.size(); ++at)
      if ((at >= static_cast<std::size_t>(tokens_) * stride || at % stride >= row) && bytes_[at] != kGuard)
        return false;
    return true;
  }

 private:
  static constexpr std::uint8_t kGuard = 0x5a;
  DType dtype_;
  std::int64_t tokens_, heads_, dim_, stride_;
  std::vector<std::uint8_t> bytes_;
};

/// Half the distance of neighbouring numbers near 1.
inline double unit_roundoff(DType dtype) { return dtype == DType::f32 ? 0x1p-24 : 0x1p-8; }

/// |got - expected| <= bound element by element; NaN never passes.
inline ::testing::AssertionResult within(const std::vector<double>& got, const std::vector<double>& expected,
                                         const std::vector<double>& bound) {
  if (got.size() != expected.size())
    return ::testing::AssertionFailure() << got.size() << " elements of " << expected.size();
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= bound[i]))
      return ::testing::AssertionFailure() << "element " << i << ": expected " << expected[i] << " within "
                                           << bound[i] << ", got " << got[i];
  return ::testing::AssertionSuccess();
}

inline std::vector<double> absolute(std::vector<double> values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

/// The bound of a result of `dtype` whose float32 terms have magnitude `terms`: `roundings` of the terms, and
/// one of the result as stored.
inline std::vector<double> rounding_bound(const std::vector<double>& terms,
                                          const std::vector<double>& expected, double roundings,
                                          DType dtype) {
  std::vector<double> bound(terms.size());
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const double inner = roundings * 0x1p-24 * std::abs(terms[i]);
    const double stored = dtype == DType::f32 ? 0 : unit_roundoff(dtype) * (std::abs(expected[i]) + inner);
    bound[i] = inner + stored + 1e-37;
  }
  return bound;
}

}  // namespace rondo::test
