#pragma once
// For tests that mpirun starts as several processes (rondo_mpi_test in CMake): all run the same tests in the
// same order.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "rondo/comm/device_group.h"

namespace rondo::test {

/// The processes of this launch; joined once and parted from when the program ends.
class Launched : public testing::Environment {
 public:
  void SetUp() override {
    processes_ = join_processes();
    ASSERT_TRUE(processes_) << "to be started by mpirun";
  }
  void TearDown() override { processes_.reset(); }
  /// RONDO_TEST_DEVICES devices on each process.
  RingOptions ring(std::chrono::milliseconds timeout = std::chrono::seconds(60)) const {
    const char* devices = std::getenv("RONDO_TEST_DEVICES");
    return {
        .devices = devices != nullptr ? std::atoi(devices) : 1, .timeout = timeout, .processes = processes_};
  }

 private:
  std::shared_ptr<Processes> processes_;
};

}  // namespace rondo::test
