#include "rondo/train/device_times.h"

#include <algorithm>

namespace rondo {

namespace {

bool computes_less(const DeviceTimes& a, const DeviceTimes& b) { return a.compute < b.compute; }

}  // namespace

int slowest_device(const std::vector<DeviceTimes>& times) {
  if (times.empty()) return -1;
  return static_cast<int>(std::max_element(times.begin(), times.end(), computes_less) - times.begin());
}

double imbalance(const std::vector<DeviceTimes>& times) {
  double sum = 0;
  for (const DeviceTimes& device : times) sum += device.compute;
  if (sum <= 0) return 0;
  const double most = std::max_element(times.begin(), times.end(), computes_less)->compute;
  return most * static_cast<double>(times.size()) / sum - 1;
}

double exposed_share(const std::vector<DeviceTimes>& times) {
  double exposed = 0, all = 0;
  for (const DeviceTimes& device : times) {
    exposed += device.exchange + device.wait;
    all += device.compute + device.exchange + device.wait;
  }
  return all > 0 ? exposed / all : 0;
}

}  // namespace rondo
