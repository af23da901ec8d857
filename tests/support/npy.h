#pragma once
// Reads NumPy's .npy files (format 1.0 and 2.0, little-endian, C order) into doubles.

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "rondo/core/error.h"

namespace rondo::test {

struct NpyArray {
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::string dtype;                ///< float16, float32, float64, int32, int64 or bool
  std::vector<double> values;       ///< exact for all of these but int64 beyond 2^53

  std::int64_t size(std::int64_t first, std::int64_t last) const {  ///< product of shape[first, last)
    return std::accumulate(shape.begin() + first, shape.begin() + last, std::int64_t{1}, std::multiplies<>());
  }
  std::int64_t rank() const { return static_cast<std::int64_t>(shape.size()); }
};

/// The value of an IEEE 754 binary16.
inline double half_to_double(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  double magnitude = 0;
  if (exponent == 31)
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  else
    magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

namespace npy_detail {

/// What stands between `key` and the next of `ends` in the header, a Python dictionary literal.
inline std::string field(const std::string& header, const std::string& key, const char* ends) {
  const std::size_t at = header.find(key);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + key.size();
  return header.substr(begin, header.find_first_of(ends, begin) - begin);
}

template <class T>
std::vector<double> numbers(const std::string& bytes, std::size_t begin, std::size_t count) {
  std::vector<T> raw(count);
  if (count > 0) std::memcpy(raw.data(), bytes.data() + begin, count * sizeof(T));
  return {raw.begin(), raw.end()};
}

inline std::vector<double> halves(const std::string& bytes, std::size_t begin, std::size_t count) {
  std::vector<double> values;
  for (const double bits : numbers<std::uint16_t>(bytes, begin, count))
    values.push_back(half_to_double(static_cast<std::uint16_t>(bits)));
  return values;
}

struct Type {
  const char *descr, *name;
  std::size_t bytes;
  std::vector<double> (*read)(const std::string&, std::size_t, std::size_t);
};
inline constexpr Type kTypes[] = {
    {"<f2", "float16", 2, halves},
    {"<f4", "float32", 4, numbers<float>},
    {"<f8", "float64", 8, numbers<double>},
    {"<i4", "int32", 4, numbers<std::int32_t>},
    {"<i8", "int64", 8, numbers<std::int64_t>},
    {"|b1", "bool", 1, numbers<std::uint8_t>},
};

}  // namespace npy_detail

/// Parses a whole file's bytes; throws IoError naming `what` for anything it does not read.
inline NpyArray parse_npy(const std::string& bytes, const std::string& what) {
  const auto require = [&](bool condition, const char* expected) {
    if (!condition) throw IoError(fmt::format("[npy] expected {} in {}", expected, what));
  };
  const auto byte = [&](std::size_t at) {
    return static_cast<std::size_t>(static_cast<unsigned char>(bytes[at]));
  };
  require(bytes.size() >= 12 && bytes.compare(0, 6, "\x93NUMPY") == 0, "the magic of a .npy file");
  const std::size_t version = byte(6), start = version == 1 ? 10 : 12;
  require(version == 1 || version == 2, "format version 1 or 2");
  std::size_t length = byte(8) | byte(9) << 8;
  if (version == 2) length |= byte(10) << 16 | byte(11) << 24;
  require(start + length <= bytes.size(), "a whole header");
  const std::string header = bytes.substr(start, length);
  require(npy_detail::field(header, "'fortran_order': ", ",}") == "False", "C order");

  NpyArray array;
  std::string shape = npy_detail::field(header, "'shape': (", ")");
  for (std::size_t at = 0; at < shape.size();) {
    const std::size_t comma = std::min(shape.find(',', at), shape.size());
    const std::string number = shape.substr(at, comma - at);
    if (number.find_first_not_of(' ') != std::string::npos) array.shape.push_back(std::stoll(number));
    at = comma + 1;
  }
  const auto count = static_cast<std::size_t>(array.size(0, array.rank()));
  const std::string descr = npy_detail::field(header, "'descr': '", "'");
  for (const npy_detail::Type& type : npy_detail::kTypes) {
    if (descr != type.descr) continue;
    require(bytes.size() == start + length + count * type.bytes, "as many elements as the shape has");
    array.dtype = type.name;
    array.values = type.read(bytes, start + length, count);
    return array;
  }
  throw IoError(fmt::format("[npy] expected f2, f4, f8, i4, i8 or b1, got '{}' in {}", descr, what));
}

inline NpyArray read_npy(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError(fmt::format("[npy] expected a file {}", path.string()));
  return parse_npy({std::istreambuf_iterator<char>(file), {}}, path.string());
}

}  // namespace rondo::test
