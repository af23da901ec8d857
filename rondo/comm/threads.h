#pragma once
// Devices that are threads of one process, alone or in a ring with those of other processes.

#include <chrono>
#include <memory>
#include <string>

#include "rondo/comm/communicator.h"
#include "rondo/core/trace.h"

namespace rondo {

class Processes;
struct ThreadShared;

/// What the devices of one process share: mailboxes, the barrier and the first failure. Outlives all of them.
///
/// The receiver copies, straight from the sender's memory, while it waits. Therefore a request must be
/// destroyed before the memory it names: destroying a send that was not waited for (a device that unwinds)
/// blocks until nobody reads that memory any more, be it through a view that another device passed on.
/// Destroying any request that was not waited for fails its device, as cancel does; a device that has so
/// failed must not read the views it holds any more. Destroying a view's request releases it.
///
/// Sends and receives of a device to itself are allowed; both ends must be posted before either is waited
/// for.
struct ThreadGroupOptions {
  int devices = 1;                             ///< of this process
  std::chrono::milliseconds timeout{600'000};  ///< bounds every wait; must be positive
  /// Other processes, which make the same group, each with as many devices: all devices form one ring,
  /// process by process. Null: this one alone.
  std::shared_ptr<Processes> processes = nullptr;
  /// Whether messages to other processes set out when they are posted, or not before their device waits.
  bool overlap = true;
};

class ThreadGroup {
 public:
  explicit ThreadGroup(const ThreadGroupOptions& options);
  ~ThreadGroup();
  /// The communicator of one device; used by that device's thread alone. With a trace, each wait is recorded
  /// under the words of `doing`: category "wait" until the peer came, then "exchange" while data move. Who
  /// sends to a device of the same process waits until that one has copied.
  std::unique_ptr<Communicator> communicator(int device, const DeviceTrace* trace = nullptr);
  /// Wakes every waiting device; their waits and later calls throw CommunicationError "device D failed:
  /// reason". The first call counts. Safe from any thread.
  void cancel(int device, const std::string& reason);
  /// Brings messages between processes forward if nobody has for a moment: costs next to nothing, so that it
  /// can be called between any two pieces of work. Safe from any thread.
  void progress();
  /// Says that a device will take part in nothing more: whoever waits for it fails at once, not at the
  /// timeout.
  void end(int device);
  /// The device whose failure stopped the group, or -1.
  int failed_device() const;
  /// What communicators throw since then, "[communicator] device D failed: ..."; empty before.
  std::string failure() const;

  /// The devices of this process begin with this one.
  int first_device() const;
  /// Waits for the other processes; to be called before any device works, on one thread. ArgumentError when
  /// they bring other numbers of devices.
  void meet();
  /// Waits until the other processes are done too; to be called when no device works any more. Throws
  /// CommunicationError when the group has failed; then it waits for a moment at most.
  void leave();

 private:
  std::shared_ptr<ThreadShared> shared_;
};

}  // namespace rondo
