#pragma once
// Brings the traces of all processes of a ring to device 0, on the clock of process 0.

#include <cstdint>
#include <vector>

#include "rondo/comm/device_group.h"
#include "rondo/core/trace.h"

namespace rondo {

/// How far another process' clock was ahead of the own one at some moment.
struct ClockReading {
  std::int64_t here_ns = 0;   ///< that moment, on the own clock
  std::int64_t ahead_ns = 0;  ///< the other one's less the own
  std::int64_t error_ns = 0;  ///< most by which `ahead_ns` may be wrong: half of the shortest round trip
};

/// The own time of what another process saw at `other_ns`, by the straight line through two readings: clocks
/// of two hosts run at speeds that differ a little.
std::int64_t on_own_clock(std::int64_t other_ns, const ClockReading& first, const ClockReading& last);

/// All devices of all processes make the same calls. Costs some twenty small messages for each process, at
/// either end, and takes place between the first devices of the processes; the others go on.
class TraceGathering {
 public:
  /// `ring` describes the processes; `own` is the trace of this one. Both outlive this object.
  TraceGathering(const RingOptions& ring, Communicator& communicator, Trace& own);

  /// Compares the clocks a first time; to be called before what is traced.
  void begin();
  /// Compares them again and returns on device 0 what every process recorded, at most `most_events` events
  /// and as many changes of memory in all, as many of each process; the latest are left out and counted.
  /// Other devices get nothing. When device 0 returns, own traces are closed.
  std::vector<ProcessTrace> finish(std::size_t most_events);

 private:
  bool leads() const { return communicator_.device() == 0; }
  int first_device(int process) const { return process * ring_.devices; }
  int processes() const { return communicator_.devices() / ring_.devices; }
  /// On device 0 a reading of each process' clock; its own comes first and is 0.
  std::vector<ClockReading> read_clocks();
  ClockReading read_clock(int peer);
  void show_clock();
  /// The first `most` events and changes of this process.
  ProcessTrace own_trace(std::size_t most) const;
  void send_events(std::size_t most);
  ProcessTrace receive_events(int peer);

  const RingOptions& ring_;
  Communicator& communicator_;
  Trace& own_;
  bool takes_part_;  ///< the first device of a process
  std::vector<ClockReading> first_;
};

}  // namespace rondo
