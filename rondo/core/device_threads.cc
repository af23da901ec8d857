#include "rondo/core/device_threads.h"

#include <mutex>
#include <thread>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {

void run_devices(int devices, const std::function<void(int)>& body,
                 const std::function<void(int, std::exception_ptr)>& on_failure) {
  check_argument(devices >= 1, "devices", "expected at least 1 device, got {}", devices);
  std::mutex mutex;
  std::exception_ptr first;
  const auto guarded = [&](int device, const std::function<void(int)>& work) {
    try {
      work(device);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (first) return;
      first = std::current_exception();
      on_failure(device, first);
    }
  };
  {
    std::vector<std::jthread> threads;
    // A thread that cannot be started is a failure of its device: the others would wait for it.
    const auto start = [&](int device) { threads.emplace_back([&, device] { guarded(device, body); }); };
    for (int device = 0; device < devices; ++device) guarded(device, start);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace rondo
