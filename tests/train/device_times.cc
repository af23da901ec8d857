// Where a step's time goes on each device.

#include "rondo/train/device_times.h"

#include "tests/train/training_support.h"

namespace rondo {
namespace {

TEST(DeviceTimes, NameTheSlowestAndHowMuchItCosts) {
  const std::vector<DeviceTimes> times = {{2, 0, 4}, {5, 1, 0}, {2, 1, 3}};
  EXPECT_EQ(slowest_device(times), 1);
  EXPECT_DOUBLE_EQ(imbalance(times), 5.0 / 3 - 1);  // mean 3, longest 5
  EXPECT_DOUBLE_EQ(exposed_share(times), 9.0 / 18);
  EXPECT_EQ(slowest_device({{1, 0, 0}, {1, 0, 0}}), 0);
  EXPECT_EQ(imbalance({{1, 0, 3}, {1, 3, 0}}), 0);
}

TEST(DeviceTimes, OfNothing) {
  EXPECT_EQ(slowest_device({}), -1);
  EXPECT_EQ(imbalance({}), 0);
  EXPECT_EQ(exposed_share({}), 0);
  EXPECT_EQ(imbalance({{0, 1, 1}}), 0);
  EXPECT_EQ(exposed_share({{0, 0, 0}}), 0);
}

TEST(DeviceTimes, OfEachStepAddUpToItsSeconds) {
  const Corpus corpus = test::text().corpus();
  const test::Case test;
  constexpr auto kPause = std::chrono::milliseconds(60);
  run_ring(test.execution.ring, [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
    trainer.initialise();
    for (int step = 0; step < 2; ++step) {
      // Between steps: in nobody's account.
      if (context.device == 1) std::this_thread::sleep_for(kPause);
      communicator.barrier();
      const StepReport report = trainer.step();
      ASSERT_EQ(report.times.size(), 2u);
      for (const DeviceTimes& times : report.times) {
        EXPECT_GT(times.compute, 0);
        EXPECT_GE(times.exchange, 0);
        EXPECT_GE(times.wait, 0);
      }
      const DeviceTimes& own = report.times[static_cast<std::size_t>(context.device)];
      EXPECT_NEAR(own.compute + own.exchange + own.wait, report.seconds, 1e-9);
      EXPECT_GT(own.exchange, 0);  // keys and values are copied
    }
  });
}

TEST(DeviceTimes, OfADeviceThatWaitsForAnother) {
  run_ring(test::Case().execution.ring, [&](Context& context, Communicator& communicator) {
    communicator.barrier();
    context.times.take();
    const auto begin = std::chrono::steady_clock::now();
    // What a slow device does between two exchanges.
    if (context.device == 1) std::this_thread::sleep_for(std::chrono::milliseconds(40));
    std::vector<double> values(1000);
    communicator.all_reduce_sum(std::span(values));
    const auto whole = std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
    const TimeAccount::Times times = context.times.take();
    EXPECT_LE(times.wait_ns + times.exchange_ns, whole);
    EXPECT_GT(times.exchange_ns, 0);
    if (context.device == 0) {
      EXPECT_GE(times.wait_ns, 30'000'000);
    } else {
      EXPECT_LE(times.wait_ns, whole - 40'000'000);
    }
    EXPECT_EQ(context.times.take().wait_ns, 0);
  });
}

}  // namespace
}  // namespace rondo
