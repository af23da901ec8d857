#pragma once
// Devices that are threads of one process.

#include <chrono>
#include <memory>
#include <string>

#include "rondo/comm/communicator.h"

namespace rondo {

/// What the devices of one process share: mailboxes, the barrier and the first failure. Outlives all of them.
class ThreadGroup {
 public:
  ThreadGroup(int devices, std::chrono::milliseconds timeout);
  ~ThreadGroup();
  /// The communicator of one device; used by that device's thread alone.
  std::unique_ptr<Communicator> communicator(int device);
  /// Wakes every waiting device; their waits and later calls throw CommunicationError "device D failed: reason".
  /// The first call counts. Safe from any thread.
  void cancel(int device, const std::string& reason);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace rondo
