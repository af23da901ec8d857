#pragma once
// Devices as threads of one process.

#include <exception>
#include <functional>

namespace rondo {

/// Runs body(device) for each device in [0, devices) on a thread of its own and returns when all have ended.
/// The first exception (in time) is handed to on_failure(device, exception), which must wake whoever waits
/// for that device, and is rethrown here once every thread has ended.
void run_devices(int devices, const std::function<void(int device)>& body,
                 const std::function<void(int device, std::exception_ptr)>& on_failure);

}  // namespace rondo
