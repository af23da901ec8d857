#pragma once
// Inside of ThreadGroup: one mutex for all bookkeeping, one condition variable per device (its thread is the
// only one that waits on it). Data are copied outside the mutex. Where other processes take part, the books
// are kept on their devices too, as far as this process has to do with them; see process_link.h.

#include <array>
#include <chrono>
#include <compare>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/comm/device_state.h"
#include "rondo/core/trace.h"

namespace rondo {

class ProcessLink;

/// A send and the receive that belongs to it.
struct Message {
  enum class Kind { copy, add, view };
  int from = 0, to = 0;
  Tag tag = 0;
  bool sent = false, received = false;          ///< which ends are posted
  std::int64_t sent_in = -1, received_in = -1;  ///< the step that each end was in
  ConstTensor source = {};
  Tensor destination = {};
  Kind kind = Kind::copy;
  std::string mismatch = {};  ///< why the two ends do not fit; then no data move
  bool withdrawn = false;     ///< an end was destroyed without being waited for: its memory may be gone
  bool busy = false;          ///< somebody is copying
  bool held = false;          ///< the receiver holds a view of the source
  bool done = false;          ///< nobody will read the source again
  bool remote = false;        ///< one end is in another process
  bool announced = false;     ///< the other process knows of this one's end
  int channel = 0;            ///< of its payload between processes
  std::chrono::steady_clock::time_point paired = {};  ///< when both ends were known here

  bool matched() const { return sent && received; }
};
using MessagePtr = std::shared_ptr<Message>;

/// What one device brings to a collective. All devices must bring the same operation, bytes and root.
struct Contribution {
  static constexpr std::int64_t kSmall = 256;  ///< bytes

  std::string operation = {};
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
  int root = 0;
  std::int64_t step = -1;    ///< that the device is in
  std::string invalid = {};  ///< what is wrong with this device's call; an error on all
  /// The data themselves where other processes take part and there are no more: then nothing else travels.
  std::array<std::byte, kSmall> small = {};
};

struct ThreadShared {
  using Lock = std::unique_lock<std::mutex>;
  /// Names a message on one of its ends: the other device and the tag.
  struct PeerTag {
    int peer = 0;
    Tag tag = 0;
    auto operator<=>(const PeerTag&) const = default;
  };
  struct Device {
    std::condition_variable wake;
    std::set<PeerTag> sends, receives;  ///< posted, not yet waited for
    bool quiet = false;                 ///< unwinds, so it reads no views any more
    bool ended = false;
    bool arrived = false;  ///< at the barrier
    bool reading = false;  ///< other devices' memory, between two barriers of a collective
    Contribution contribution;
    DeviceState state;  ///< of another process' device: as last heard
  };

  ThreadShared(int devices, std::chrono::milliseconds limit);
  ~ThreadShared();

  int size() const { return static_cast<int>(devices.size()); }
  Device& at(int device) { return devices[static_cast<std::size_t>(device)]; }
  /// What every device brought to the collective at work; stable until all have come to the next barrier.
  const Contribution& brought(int device) const { return snapshot[static_cast<std::size_t>(device)]; }

  // These are called with the mutex held.
  /// The first failure counts. `tells`: the other processes do not know of it yet.
  void fail(int device, const std::string& reason, bool provisional, bool tells = true);
  void check_alive() const;
  /// Of the failure.
  std::string words() const;
  void wake_all();
  /// Blocks `device` until ready() holds. Throws (with `lock` held) when the group fails first, when the
  /// device that missing() names has ended, or at the timeout, which fails the group. While under_way() holds
  /// the device may have ended: what it gave is still travelling.
  template <class Ready, class Missing, class UnderWay>
  void await(Lock& lock, int device, const char* doing, const Ready& ready, const Missing& missing,
             const UnderWay& under_way);
  /// `device` is about to wait.
  void begin_wait(int device);
  /// Sleeps until `device` is woken, or brings the link forward; `rests` counts how often in a row. True when
  /// the deadline has passed.
  bool rest(Lock& lock, int device, std::chrono::steady_clock::time_point deadline, int& rests);
  /// Fails the group and throws because `device` waited in vain for `peer`: names the device at the end of
  /// the chain of waits.
  [[noreturn]] void give_up(int device, int peer, const char* doing);
  /// The device that `device` waits for, or -1.
  int awaited_by(int device) const;
  /// Whom all wait for, from `device` on: the first that waits for nobody; -1 when they wait in a circle.
  int end_of_chain(int device) const;
  /// Sends the link's notes, with the mutex released.
  void flush(Lock& lock) const;
  /// Words about what `peer` posted for `device` that nothing matches: a wrong tag shows there.
  std::string posted_by(int peer, int device) const;

  /// Enters one end of a message and pairs it with the other if that is there.
  MessagePtr post(const Message& half);
  MessagePtr pair(const Message& half);
  /// Copies or adds with the mutex released.
  void transfer(Lock& lock, const MessagePtr& message);
  /// Ends the reading of a view by its receiver.
  void release_view(Message& message);
  void start_reading(const MessagePtr& message) { active.push_back(message); }
  void stop_reading(Message& message);
  /// Whether anybody reads the memory, be it through a view that another device passed on.
  bool is_read(const ConstTensor& memory) const;
  /// The end `sender` of the message was destroyed without being waited for. Blocks while its memory is read.
  void abandon(Lock& lock, const MessagePtr& message, bool sender);

  /// Waits for all devices. `reads`: until its next barrier each device reads memory of the others, and no
  /// device may unwind before they have finished.
  void barrier(Lock& lock, int device, const char* doing, bool reads);
  /// A device comes to the barrier; the last one completes it.
  void arrive(int device, bool reads);
  std::string disagreement() const;
  /// Blocks until no device reads memory of others; needed before a device may throw out of a collective.
  void drain(Lock& lock, int device);

  // These take the mutex themselves.
  /// The barrier that opens a collective: takes each device's contribution, throws on all when they do not
  /// fit.
  void open(int device, Contribution contribution, DeviceTrace& trace, bool reads = true);
  void meet(int device, const char* doing, DeviceTrace& trace, bool reads);
  // Those of `own`, the device's communicator, which is used where data travel between processes.
  void all_reduce_sum(Communicator& own, std::span<float> values, DeviceTrace& trace);
  void all_reduce_sum(Communicator& own, std::span<double> values, DeviceTrace& trace);
  void all_gather(Communicator& comm, std::span<const std::byte> own, std::span<std::byte> all,
                  DeviceTrace& trace);
  void broadcast(Communicator& own, int root, std::span<std::byte> data, DeviceTrace& trace);

  mutable std::mutex mutex;
  const std::chrono::milliseconds timeout;
  std::vector<Device> devices;
  int failed_device = -1;
  bool failure_provisional = false;  ///< the device's own words are still to come
  std::string failure;
  std::map<std::pair<int, PeerTag>, MessagePtr> unmatched;  ///< key: sender, then receiver and tag
  std::vector<MessagePtr> active;                           ///< being copied, or held as a view
  int arrived = 0;
  std::int64_t generation = 0;  ///< barriers completed
  std::vector<Contribution> snapshot;
  std::string collective_error;
  std::unique_ptr<ProcessLink> link;  ///< to the other processes; null when there are none
};

template <class Ready, class Missing, class UnderWay>
void ThreadShared::await(Lock& lock, int device, const char* doing, const Ready& ready,
                         const Missing& missing, const UnderWay& under_way) {
  const auto begin = std::chrono::steady_clock::now(), deadline = begin + timeout;
  DeviceState& state = at(device).state;
  state.begin(doing, begin);
  struct Back {
    DeviceState& state;
    ~Back() { state.end(std::chrono::steady_clock::now()); }
  } const back{state};
  int rests = 0;
  if (link) begin_wait(device);
  for (bool late = false;; late = rest(lock, device, deadline, rests)) {
    if (ready()) return;
    check_alive();
    const int peer = missing();
    state.waits_for = peer;
    if (late || (at(peer).ended && !under_way())) give_up(device, peer, doing);
  }
}

}  // namespace rondo
