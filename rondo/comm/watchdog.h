#pragma once
// Finds out which process failed, whatever the devices and MPI are doing. A thread of its own sleeps on
// sockets to all other processes: it tells them regularly where this process' devices are (heartbeats), and
// notices when another process is gone, at once, or silent, after a while.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "rondo/comm/control_peers.h"
#include "rondo/comm/device_state.h"

namespace rondo {

/// A failure of a device, in words for all.
struct DeviceFailure {
  int device = -1;
  bool provisional = false;  ///< the device's own words are still to come
  std::string reason = {};
};

/// How a process was lost.
enum class Loss {
  died,     ///< the system closed its connection
  silent,   ///< nothing came from it for long: it was stopped, or the network was cut
  cut_off,  ///< nothing came from any other: this process itself
  left      ///< it said goodbye, as it does also after failures
};

/// What a ring tells the watchdog of its process, and hears from it; called on the watchdog's thread, and
/// from within watch().
class Watched {
 public:
  virtual ~Watched() = default;
  /// Where this process' devices are.
  virtual std::vector<DeviceState> own_devices() = 0;
  virtual void heard(int process, std::span<const DeviceState> devices) = 0;
  virtual void told(const DeviceFailure& failure) = 0;
  virtual void lost(int process, Loss loss, DeviceState::Clock::time_point since) = 0;
};

class Watchdog {
 public:
  using Clock = DeviceState::Clock;

  /// Of the process `rank`; peers by rank, itself among them without a socket.
  Watchdog(int rank, std::vector<ControlPeer> peers);
  /// Says goodbye.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// A process is silent for a quarter of the timeout, and a minute at most, before it counts as lost.
  static std::chrono::milliseconds silence_limit(std::chrono::milliseconds timeout);

  /// Watches over a ring from here on, and tells it what was found out before; null: over none. When it
  /// returns, the one before is not called any more.
  void watch(Watched* ring, std::chrono::milliseconds timeout);
  /// Tells all processes at once, without waiting for any. Safe from any thread.
  void tell(const DeviceFailure& failure);
  /// Says goodbye and waits until all others have done so; false when one is lost, or at the limit.
  bool part(std::chrono::milliseconds limit);
  const std::string& host(int process) const { return peers_[static_cast<std::size_t>(process)].host; }

 private:
  enum class Kind : std::uint32_t { beat = 0x72696e67, failure, goodbye };
  struct Header;
  struct FailureWords;
  struct BeatState;
  struct Peer {
    std::string host;
    Socket socket;
    bool present = false;  ///< connected, and not lost
    bool said_goodbye = false;
    bool reported = false;                     ///< its loss, to the ring at hand
    std::chrono::milliseconds interval{1000};  ///< between its heartbeats, as it says
    Loss loss = Loss::died;
    Clock::time_point heard = {}, lost_at = {};
    std::vector<std::byte> incoming, outgoing;
  };
  struct Beat {
    int process = 0;
    std::vector<DeviceState> devices;
  };

  void run();
  /// Sleeps until something comes or the next heartbeat is due.
  void sleep_until(Clock::time_point moment);
  void beat(Clock::time_point now);
  void read_all(Clock::time_point now);
  bool read(Peer& peer, Clock::time_point now);
  void parse(int process, Peer& peer, Clock::time_point now);
  void take(int process, Peer& peer, const Header& header, const std::byte* body, Clock::time_point now);
  void lose(Peer& peer, Loss loss, Clock::time_point since);
  /// Whom nobody heard for too long.
  void judge(Clock::time_point now);
  void report();
  void send(Peer& peer, std::span<const std::byte> frame);
  void drain(Peer& peer);
  void send_to_all(Kind kind, std::span<const std::byte> body, bool unless_busy);
  /// Whether a failure is known of which the device has not said yet what it was.
  bool waits_for_words() const;
  void wake();
  std::chrono::milliseconds interval() const;
  /// How long `peer` may be silent: it may have to do with a ring of a longer timeout than this process, or
  /// with none yet.
  std::chrono::milliseconds patience(const Peer& peer) const;

  const int rank_;
  std::vector<Peer> peers_;
  Socket wake_receive_, wake_send_;

  // Taken first: a ring is called, and changed, with it held, but never with mutex_ held.
  std::mutex ring_mutex_;
  Watched* ring_ = nullptr;

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::chrono::milliseconds silence_;
  bool watching_ = false, stops_ = false, told_ = false;
  bool cut_off_ = false;
  Clock::time_point last_turn_, next_beat_, cut_off_since_ = {}, failure_since_ = {};
  DeviceFailure failure_;  ///< the first that another process told
  std::vector<Beat> beats_;
  std::jthread thread_;
};

}  // namespace rondo
