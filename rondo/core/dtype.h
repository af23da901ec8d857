#pragma once
// Storage types of tensors and the bfloat16 conversions.

#include <bit>
#include <cstddef>
#include <cstdint>

namespace rondo {

/// How a tensor's elements are stored. Arithmetic and every accumulator are float32 whatever the storage.
enum class DType : std::uint8_t { f32, bf16 };

/// The upper half of a float32.
struct bfloat16 {
  std::uint16_t bits = 0;
};

inline float to_float(bfloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
inline float to_float(float value) { return value; }

/// Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
inline bfloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

constexpr std::int64_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType dtype) { return dtype == DType::f32 ? "float32" : "bfloat16"; }

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<bfloat16> = DType::bf16;

}  // namespace rondo
