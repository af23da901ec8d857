// With one memory limit per device the longest context grows with the ring.

#include <gtest/gtest.h>

#include "tests/train/memory_model.h"

namespace rondo {
namespace {

using test::MemoryCase;

class LongestContext : public ::testing::TestWithParam<std::tuple<DType, Remat>> {};
INSTANTIATE_TEST_SUITE_P(Memory, LongestContext,
                         ::testing::Combine(::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Values(Remat::layer, Remat::attention, Remat::none)),
                         [](const auto& test_case) {
                           return fmt::format("{}_{}", name_of(std::get<0>(test_case.param)),
                                              name_of(std::get<1>(test_case.param)));
                         });

/// Steps under the limit that 2 devices need for 2,000 tokens, of one process or of two.
class Growth {
 public:
  Growth(DType dtype, Remat remat, bool apart) : apart_(apart) {
    run_.dtype = dtype, run_.remat = remat;
    set_devices(2);
    const test::Measured two = test::run_one_step(run_, corpus_);
    limit_ = two.peak_totals[0];
    scratch_ = two.peaks[0][static_cast<std::size_t>(Entry::library_scratch)];
  }

  double limit_mib() const { return static_cast<double>(limit_) / (1 << 20); }
  /// The longest context that the formulas allow, which runs, while a token more on each device does not.
  double longest(int devices) {
    set_devices(devices);
    const std::int64_t tokens = test::longest_context(run_, devices, limit_ - scratch_);
    run_.context = tokens;
    EXPECT_NO_THROW(test::run_one_step(run_, corpus_, limit_)) << devices << " devices, " << tokens;
    run_.context = tokens + devices;
    EXPECT_THROW(test::run_one_step(run_, corpus_, limit_), MemoryLimitError) << devices << " devices";
    return static_cast<double>(tokens);
  }

 private:
  void set_devices(int devices) { run_.devices = devices, run_.processes = apart_ ? devices : 1; }

  const test::Text files_{{12000}};
  const Corpus corpus_ = files_.corpus();
  bool apart_;
  MemoryCase run_{.config = test::deep_config(64, 4, 1), .block_tokens = 64, .context = 2000};
  std::int64_t limit_ = 0, scratch_ = 0;
};

TEST_P(LongestContext, GrowsWithTheRing) {
  const auto [dtype, remat] = GetParam();
  Growth growth(dtype, remat, false);
  const double one = growth.longest(1), two = growth.longest(2), eight = growth.longest(8);
  EXPECT_NEAR(eight / two, 4, 0.04);
  EXPECT_GE(eight / one, 7.4);
  RecordProperty("limit_MiB", fmt::format("{:.1f}", growth.limit_mib()));
  RecordProperty("longest", fmt::format("{} {} {}", one, two, eight));
  fmt::print(
      "{}, {}: limit {:.1f} MiB, longest context on 1, 2, 8 devices: {}, {}, {}; 8 over 2: {:.3f}, 8 over 1: "
      "{:.3f}\n",
      name_of(dtype), name_of(remat), growth.limit_mib(), one, two, eight, eight / two, eight / one);
}

TEST(LongestContextOfProcesses, GrowsWithTheRing) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Growth growth(dtype, Remat::layer, true);
    const double two = growth.longest(2), eight = growth.longest(8);
    EXPECT_NEAR(eight / two, 4, 0.04);
    fmt::print("{}: limit {:.1f} MiB, longest context in 2, 8 processes: {}, {}; 8 over 2: {:.3f}\n",
               name_of(dtype), growth.limit_mib(), two, eight, eight / two);
  }
}

}  // namespace
}  // namespace rondo
