#pragma once
// Runs a function on a ring of in-process devices.

#include <functional>

#include "rondo/comm/device_group.h"

namespace rondo::test {

/// run_ring with a timeout for tests. `options.devices` is replaced; another timeout may be given.
inline void spawn(int devices, const std::function<void(Context&, Communicator&)>& fn,
                  RingOptions options = {.timeout = std::chrono::seconds(60)}) {
  options.devices = devices;
  run_ring(options, fn);
}

}  // namespace rondo::test
