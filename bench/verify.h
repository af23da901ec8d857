#pragma once
// How results are compared with the reference.

#include <cstdint>
#include <vector>

#include "rondo/core/dtype.h"

namespace rondo::bench {

/// Largest |error| over the largest |value| of the reference, over all that was added.
class Comparison {
 public:
  /// `got` and `expected` hold the same elements; what is not finite in one of the two alone is an infinite
  /// error.
  void add(const std::vector<double>& got, const std::vector<double>& expected);
  double relative() const;

 private:
  double error_ = 0, largest_ = 0;
};

/// Throws std::runtime_error that names `what` when the error is beyond what `dtype` explains: then it is
/// another function that would be timed.
void require_small(double relative_error, DType dtype, const char* what);

/// `count` of [0, size), ascending, without repetition: the first, the last and others spread over the rest;
/// all of them where there are no more.
std::vector<std::int64_t> sampled(std::int64_t size, std::int64_t count);

}  // namespace rondo::bench
