// The accuracy contract on standard normal inputs at length 2048 (slow: the reference is plain double
// precision).

#include <gtest/gtest.h>

#include "tests/kernels/attention_support.h"

namespace rondo::attention_test {
namespace {

struct Setting {
  std::int64_t length, qk_dim, v_dim;
  Band band;
};

class AttentionAccuracy : public testing::TestWithParam<Setting> {};

TEST_P(AttentionAccuracy, MeetsTheContract) {
  const Setting& s = GetParam();
  const Range all{0, s.length};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c{.T = s.length,
                 .S = s.length,
                 .D = s.qk_dim,
                 .E = s.v_dim,
                 .dtype = dtype,
                 .tiles = {{.q = all, .k = all, .band = s.band}}};
    for (const Isa isa : tiers()) {
      EXPECT_EQ(forward_failure(c, isa), "");
      EXPECT_EQ(gradient_failure(c, isa), "");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, AttentionAccuracy,
                         testing::Values(Setting{2048, 64, 64, {}}, Setting{2048, 128, 64, {.hi = 0}},
                                         Setting{1000, 256, 256, {}}, Setting{2048, 4, 4, {}}));

}  // namespace
}  // namespace rondo::attention_test
