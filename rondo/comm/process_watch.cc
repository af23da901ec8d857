// What a ring and the watchdog of its process have to say to each other.

#include <algorithm>

#include "rondo/comm/process_link.h"

namespace rondo {

std::string ProcessLink::name_of_process(int process) const {
  const int first = process * own_devices_, last = first + own_devices_ - 1;
  const std::string devices =
      first == last ? fmt::format("device {}", first) : fmt::format("devices {} to {}", first, last);
  return fmt::format("process {} ({}, host {})", process, devices, processes_->watchdog().host(process));
}

std::vector<DeviceState> ProcessLink::own_devices() {
  const std::lock_guard lock(shared_.mutex);
  std::vector<DeviceState> states;
  for (int device = first_device(); device < first_device() + own_devices_; ++device) {
    states.push_back(shared_.at(device).state);
    states.back().waits_for = shared_.awaited_by(device);
  }
  return states;
}

void ProcessLink::heard(int process, std::span<const DeviceState> devices) {
  const std::lock_guard lock(shared_.mutex);
  // Those of an earlier ring may have been others.
  if (devices.size() != static_cast<std::size_t>(own_devices_)) return;
  for (std::size_t n = 0; n < devices.size(); ++n)
    shared_.at(process * own_devices_ + static_cast<int>(n)).state = devices[n];
}

void ProcessLink::told(const DeviceFailure& failure) {
  const std::lock_guard lock(shared_.mutex);
  shared_.fail(failure.device, failure.reason, failure.provisional, false);
}

void ProcessLink::lost(int process, Loss loss, DeviceState::Clock::time_point since) {
  const std::lock_guard lock(shared_.mutex);
  const auto p = static_cast<std::size_t>(process);
  const bool had_left = left_[p];
  const std::string name = name_of_process(process), time = time_of_day(since);
  const double seconds = std::chrono::duration<double>(DeviceState::Clock::now() - since).count();
  const DeviceState& state = shared_.at(process * own_devices_).state;
  if (loss == Loss::cut_off)
    return shared_.fail(process * own_devices_,
                        fmt::format("{} hears no other process since {} ({:.3g} s): it is cut off from them",
                                    name, time, seconds),
                        false);
  lost_[p] = true;
  // Goodbyes overtake notes: one that has begun this ring has done its part of it, or said what failed.
  if (loss == Loss::left && brings_[p] > 0) return;
  left_[p] = true;
  if (had_left) return;
  const std::string reason =
      loss == Loss::left ? fmt::format("{} ended before the ring began; it says itself why", name)
      : brings_[p] == 0  ? fmt::format("{} died at {}, before the ring began", name, time)
      : loss == Loss::silent
          ? fmt::format("{} is silent since {} ({:.3g} s): stopped, or cut off; last heard of {}", name, time,
                        seconds, whereabouts(state))
          : fmt::format("{} died at {}; last heard of {}", name, time, whereabouts(state));
  shared_.fail(process * own_devices_, reason, false);
}

}  // namespace rondo
