#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). A number depends on its key and counter alone, never on who computes it or in which
// order.

#include <array>
#include <cstdint>

namespace rondo {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// 64 well-mixed bits of a 64-bit value (the finaliser of SplitMix64); folds several numbers into a Philox
/// key.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr PhiloxKey philox_key(std::uint64_t seed, std::uint64_t stream) {
  const std::uint64_t mixed = mix64(mix64(seed) ^ stream);
  return {static_cast<std::uint32_t>(mixed), static_cast<std::uint32_t>(mixed >> 32)};
}

/// Uniform in [0, 1) with 24 bits.
constexpr float uniform(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// Attention dropout: the probability of query position q and key position k is dropped when the generator's
/// first word is below p * 2^32. `layer_key` = dropout_key(...); see docs/maths.md, "Dropout".
constexpr PhiloxKey dropout_key(std::uint64_t seed, std::uint64_t optimizer_step, std::uint64_t layer) {
  // One after the other: a sum or exclusive or of two mixed numbers would be the same with the two exchanged.
  return philox_key(mix64(mix64(seed) ^ optimizer_step), layer);
}
constexpr std::uint32_t dropout_bits(PhiloxKey layer_key, std::uint32_t sequence, std::uint32_t head,
                                     std::uint32_t q_position, std::uint32_t k_position) {
  return philox4x32({q_position, k_position, head, sequence}, layer_key)[0];
}

}  // namespace rondo
