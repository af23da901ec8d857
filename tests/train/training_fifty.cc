// The same losses over fifty steps, whatever the number of devices.

#include <gtest/gtest.h>

#include "tests/train/training_support.h"

namespace rondo {
namespace {

TEST(Devices, AgreeOverFiftySteps) { test::expect_devices_agree(50, {2, 3, 4, 8}); }

}  // namespace
}  // namespace rondo
