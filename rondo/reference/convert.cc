#include "rondo/reference/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "rondo/core/error.h"
#include "rondo/core/random.h"

namespace rondo::reference {
namespace {

// Calls visit(place of the element in memory, counted in elements) in the order [tokens, heads, dim].
template <class Pointer, class Visit>
void for_each_element(const BasicTensor<Pointer>& tensor, Visit&& visit) {
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head)
      for (std::int64_t i = 0; i < tensor.dim; ++i)
        visit(token * tensor.token_stride + head * tensor.head_stride + i);
}

}  // namespace

std::vector<double> to_doubles(const ConstTensor& tensor) {
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(tensor.elements()));
  for_each_element(tensor, [&](std::int64_t at) {
    values.push_back(tensor.dtype == DType::f32 ? static_cast<const float*>(tensor.data)[at]
                                                : to_float(static_cast<const bfloat16*>(tensor.data)[at]));
  });
  return values;
}

void from_doubles(const std::vector<double>& values, const Tensor& tensor) {
  check_argument(static_cast<std::int64_t>(values.size()) == tensor.elements(), "from_doubles",
                 "expected {} values, got {}", tensor.elements(), values.size());
  auto next = values.begin();
  for_each_element(tensor, [&](std::int64_t at) {
    const auto value = static_cast<float>(*next++);
    if (tensor.dtype == DType::f32)
      static_cast<float*>(tensor.data)[at] = value;
    else
      static_cast<bfloat16*>(tensor.data)[at] = to_bfloat16(value);
  });
}

std::vector<double> rounded(const std::vector<double>& values, DType dtype) {
  std::vector<double> result;
  result.reserve(values.size());
  for (const double value : values) {
    const auto single = static_cast<float>(value);
    result.push_back(dtype == DType::f32 ? single : to_float(to_bfloat16(single)));
  }
  return result;
}

std::vector<double> standard_normal(std::int64_t count, std::uint64_t seed, std::uint64_t stream) {
  const PhiloxKey key = philox_key(seed, stream);
  std::vector<double> values;
  for (std::int64_t block = 0; 4 * block < count; ++block) {
    const auto low = static_cast<std::uint32_t>(block), high = static_cast<std::uint32_t>(block >> 32);
    const PhiloxCounter bits = philox4x32({low, high, 0, 0}, key);
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const double u = (bits[pair] + 1.0) * 0x1p-32;  // in (0, 1]: its logarithm is finite
      const double angle = 2 * std::numbers::pi * (bits[pair + 1] * 0x1p-32);
      const double radius = std::sqrt(-2 * std::log(u));
      values.push_back(radius * std::cos(angle));
      values.push_back(radius * std::sin(angle));
    }
  }
  values.resize(static_cast<std::size_t>(count));
  return values;
}

void fill_standard_normal(const Tensor& tensor, std::uint64_t seed, std::uint64_t stream, double scale) {
  std::vector<double> values = standard_normal(tensor.elements(), seed, stream);
  for (double& value : values) value *= scale;
  from_doubles(values, tensor);
}

double max_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double difference = std::abs(a[i] - b[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace rondo::reference
