#pragma once
// The processes that a launcher (mpirun, srun) started together, and how bytes move between them.

#include <chrono>
#include <cstddef>
#include <memory>

#include "rondo/comm/host_window.h"

namespace rondo {

class Watchdog;

/// Bytes on their way between processes. They belong to the transfer until it is done: a device that fails
/// takes its own memory with it, but never memory that the network still reads or writes.
struct Parcel {
  std::shared_ptr<std::byte[]> data;
  std::size_t bytes = 0;
};

/// All calls are non-blocking, and made by one thread at a time.
class Processes {
 public:
  /// A send or receive under way. Destroying one that is not done gives it up.
  class Transfer {
   public:
    virtual ~Transfer() = default;
    /// Brings all transfers of this process forward; true once this one is done.
    virtual bool done() = 0;
  };
  using TransferPtr = std::unique_ptr<Transfer>;
  static constexpr int kAny = -1;                    ///< receive from whichever process sends
  static constexpr int kChannels = 32'000;           ///< channels are [0, kChannels)
  static constexpr int kControlChannel = kChannels;  ///< and this one, on which processes meet

  Processes();
  virtual ~Processes();
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// How many of them run on this process' host, itself included.
  virtual int on_this_host() const = 0;
  /// A process' memory that this one shares; none where they do not run on one host, or share none.
  virtual HostWindow window_of(int process) const = 0;
  /// Parcels from one process to another on one channel arrive in the order in which they were sent, and are
  /// received in the order in which receives were posted.
  virtual TransferPtr send(int to, int channel, Parcel parcel) = 0;
  /// Receives a parcel of at most this many bytes.
  virtual TransferPtr receive(int from, int channel, Parcel into) = 0;

  /// Finds out which process failed; it watches from the first call on, which all processes make and which
  /// throws CommunicationError when they cannot reach each other.
  Watchdog& watchdog();

  /// The number of the ring that begins now; rings follow each other and never overlap. CommunicationError
  /// after one that did not end well.
  int begin_ring(std::chrono::milliseconds timeout);
  void end_ring(bool well) { state_ = well ? State::well : State::broken; }

 protected:
  /// Waits until all processes are about to leave; false when a ring did not end well, or when one of them is
  /// lost or does not come in time, so that nobody may wait for it any more.
  bool part_in_peace(std::chrono::milliseconds limit);
  /// The last ring's timeout.
  std::chrono::milliseconds longest_wait() const { return longest_wait_; }

 private:
  enum class State { fresh, running, well, broken };
  State state_ = State::fresh;
  int rings_ = 0;
  std::chrono::milliseconds longest_wait_ = std::chrono::minutes(10);
  std::unique_ptr<Watchdog> watchdog_;
};

/// How many processes the launcher says that it started, from its environment variables; 1 without one.
int launched_processes();

/// Joins the processes that were launched together; null when this process is alone, which costs nothing. To
/// be called once. Throws ArgumentError when the launcher started several processes of which each would be
/// alone, or when this build has no MPI.
std::shared_ptr<Processes> join_processes();

}  // namespace rondo
