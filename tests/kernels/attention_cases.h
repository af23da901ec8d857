#pragma once
// The cases that forward, backward and vanilla attention are all held to, and the tiers they run on.

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/kernels/attention_support.h"

namespace rondo::attention_test {

using Cases = std::vector<Case>;

inline Cases head_sizes() {
  Cases cases;
  for (const auto& [D, E] :
       {std::pair{4, 4}, {5, 7}, {8, 32}, {31, 33}, {64, 64}, {96, 17}, {127, 129}, {256, 256}})
    cases.push_back({.T = 37, .S = 50, .D = D, .E = E});
  return cases;
}

inline Cases lengths() {
  Cases cases;
  for (const auto& [T, S] :
       {std::pair{1, 1}, {1, 300}, {3, 65}, {8, 64}, {63, 63}, {64, 64}, {65, 129}, {257, 70}, {300, 1}})
    cases.push_back({.T = T, .S = S, .D = 12, .E = 9});
  return cases;
}

inline Cases causal_and_windows() {
  Cases cases;
  const Range all{0, 150};
  for (const Band band : {Band{.hi = 0}, Band{-20, 0}, Band{-3, 3}, Band{.hi = -1}, Band{.lo = 1},
                          Band{70, 71}, Band{0, 0}, Band{-1000, 1000}, Band{5, 4}})
    cases.push_back({.T = 150, .S = 150, .D = 16, .E = 16, .tiles = {{.q = all, .k = all, .band = band}}});
  return cases;
}

inline Cases any_tiles() {
  Cases cases;
  for (std::uint64_t seed = 0; seed < 12; ++seed)
    cases.push_back({.T = 140,
                     .S = 180,
                     .H = 2,
                     .D = 8,
                     .E = 12,
                     .tiles = random_tiles(seed, 140, 180, 12u << (seed % 5))});
  return cases;
}

inline Cases many_tiny_tiles() {
  return {{.T = 70, .S = 70, .D = 8, .E = 8, .tiles = random_tiles(3, 70, 70, 2)}};
}

inline Cases grouped_heads_and_strides() {
  Cases cases;
  for (const auto& [H, G] : {std::pair{4, 4}, {4, 2}, {6, 1}})
    cases.push_back({.T = 70, .S = 70, .H = H, .G = G, .D = 20, .E = 10, .gap = 3});
  return cases;
}

class OfATierAndDType : public testing::TestWithParam<std::tuple<Isa, DType>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

inline auto every_tier_and_dtype() {
  return testing::Combine(testing::ValuesIn(tiers()), testing::Values(DType::f32, DType::bf16));
}
inline std::string tier_and_dtype(const testing::TestParamInfo<std::tuple<Isa, DType>>& info) {
  return std::string(name_of(std::get<0>(info.param))) + "_" + name_of(std::get<1>(info.param));
}

}  // namespace rondo::attention_test
