#pragma once
// Runs a function on a ring of devices in this program, as one process or as several.

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "rondo/comm/device_group.h"
#include "tests/support/memory_processes.h"

namespace rondo::test {

/// run_ring with a timeout for tests. `options.devices` is replaced; another timeout may be given.
inline void spawn(int devices, const std::function<void(Context&, Communicator&)>& fn,
                  RingOptions options = {.timeout = std::chrono::seconds(60)}) {
  options.devices = devices;
  run_ring(options, fn);
}

/// Whether a process only repeats what another one failed of.
inline bool repeats_another(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const CommunicationError& error) {
    return std::string(error.what()).find(" failed: ") != std::string::npos;
  } catch (...) {
    return false;
  }
}

/// The same with the devices divided over processes, `own` on each: on one host where they have one device
/// each, so that bytes are moved in both ways. The exception of the process where something failed is
/// rethrown.
inline void spawn_divided(int devices, int own, const std::function<void(Context&, Communicator&)>& fn,
                          RingOptions options = {.timeout = std::chrono::seconds(60)}) {
  if (own == devices) return spawn(devices, fn, options);
  options.devices = own;
  MemoryNetwork network(own == 1);
  const int processes = devices / own;
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(processes));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < processes; ++rank)
      threads.emplace_back([&, rank, part = options]() mutable {
        part.processes = std::make_shared<MemoryProcesses>(network, rank, processes);
        try {
          run_ring(part, fn);
        } catch (...) {
          failures[static_cast<std::size_t>(rank)] = std::current_exception();
        }
      });
  }
  std::exception_ptr chosen;
  for (const std::exception_ptr& failure : failures)
    if (failure && (!chosen || (repeats_another(chosen) && !repeats_another(failure)))) chosen = failure;
  if (chosen) std::rethrow_exception(chosen);
}

}  // namespace rondo::test
