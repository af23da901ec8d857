#include "bench/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "rondo/core/random.h"
#include "rondo/reference/convert.h"

namespace rondo::bench {

void Comparison::add(const std::vector<double>& got, const std::vector<double>& expected) {
  error_ = std::max(error_, reference::max_difference(got, expected));
  for (const double value : expected) largest_ = std::max(largest_, std::abs(value));
}

double Comparison::relative() const { return largest_ > 0 ? error_ / largest_ : error_; }

void require_small(double relative_error, DType dtype, const char* what) {
  // A few hundred roundings of the storage type; measured errors are ten times smaller.
  const double most = dtype == DType::f32 ? 1e-4 : 3e-2;
  if (relative_error <= most) return;
  throw std::runtime_error(fmt::format("[bench] expected {} within {:.0e} of the reference in {}, got {:.1e}",
                                       what, most, name_of(dtype), relative_error));
}

std::vector<std::int64_t> sampled(std::int64_t size, std::int64_t count) {
  count = std::clamp<std::int64_t>(count, std::min<std::int64_t>(size, 2), size);
  std::vector<std::int64_t> chosen;
  for (std::int64_t n = 0; n < count; ++n) {
    // One of each of `count` equal parts, so that no stride of the work's own is met.
    const std::int64_t begin = size / count * n + std::min(n, size % count);
    const std::int64_t length = size / count + (n < size % count ? 1 : 0);
    const auto offset = static_cast<std::int64_t>(
        mix64(static_cast<std::uint64_t>(n)) % static_cast<std::uint64_t>(std::max<std::int64_t>(1, length)));
    chosen.push_back(n == 0 ? 0 : n == count - 1 ? size - 1 : begin + offset);
  }
  return chosen;
}

}  // namespace rondo::bench
