#pragma once
// Checks a backward pass against central differences of its forward pass, in double precision.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace rondo::test {

/// Expects gradient[i] to be the derivative of loss() by x[i] for every i; `loss` reads x, which is left as
/// it was. A central difference with step h = 1e-5 is off by about h^2/6 times the third derivative (1e-11
/// for the unit-sized functions tested here) and by rounding, about 2e-16 |loss| / h = 1e-10 for a loss
/// near 5. Both stay below 2e-9 times the size of loss and gradient; a wrong term would show at 1e-2.
inline void expect_gradient(std::vector<double>& x, const std::vector<double>& gradient,
                            const std::function<double()>& loss, const char* what) {
  constexpr double step = 1e-5;
  ASSERT_EQ(x.size(), gradient.size()) << what;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double saved = x[i];
    x[i] = saved + step;
    const double above = loss();
    x[i] = saved - step;
    const double below = loss();
    x[i] = saved;
    const double expected = (above - below) / (2 * step);
    const double size = std::max({1.0, std::abs(above), std::abs(expected)});
    ASSERT_NEAR(gradient[i], expected, 2e-9 * size) << what << " element " << i;
  }
}

/// sum of weight * value: turns a tensor-valued function into a loss whose output gradient is `weight`.
inline double weighted_sum(const std::vector<double>& weight, const std::vector<double>& value) {
  double sum = 0;
  for (std::size_t i = 0; i < value.size(); ++i) sum += weight[i] * value[i];
  return sum;
}

}  // namespace rondo::test
