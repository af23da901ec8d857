#pragma once
// What became of a step's time on each device: computing, moving data, waiting for others.

#include <cstdint>
#include <vector>

namespace rondo {

/// Seconds of one step on one device; together the step's. Exchange and wait are exposed: nothing was
/// computed meanwhile. Messages that travel beside the computation are in neither.
struct DeviceTimes {
  double compute = 0;   ///< everything but the other two
  double exchange = 0;  ///< data moved, and nothing else was done
  double wait = 0;      ///< another device had not come yet
};

/// The device that computed longest, which the others wait for; the first of equals, -1 without devices.
int slowest_device(const std::vector<DeviceTimes>& times);

/// Longest over mean computing time, less 1: how much shorter the steps would be if work were spread evenly
/// and nothing else changed. 0 where nothing was computed.
double imbalance(const std::vector<DeviceTimes>& times);

/// The part of all devices' time in which they waited or moved data, 0 to 1.
double exposed_share(const std::vector<DeviceTimes>& times);

}  // namespace rondo
