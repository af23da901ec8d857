#pragma once
// Ties the ThreadShared of several processes together: what a device posts for a device of another process,
// its arrival at a barrier, its failure and its end are told to that process in short notes, so that both
// keep the same books. Payload follows once both ends are posted, in pieces, through memory of the link or,
// on one host, memory that both share.
//
// No thread of its own: whichever device waits brings everything forward (progress), one at a time. What the
// watchdog of the process finds out comes beside all this, on its thread (process_watch.cc).

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rondo/comm/processes.h"
#include "rondo/comm/thread_shared.h"
#include "rondo/comm/watchdog.h"

namespace rondo {

class ProcessLink final : private Watched {
 public:
  /// Devices [rank * own_devices, (rank + 1) * own_devices) are of this process.
  /// Without `overlap` messages set out when their device waits for anything.
  ProcessLink(ThreadShared& shared, std::shared_ptr<Processes> processes, int own_devices, bool overlap);
  ~ProcessLink() override;

  bool is_local(int device) const { return process_of(device) == processes_->rank(); }
  int first_device() const { return processes_->rank() * own_devices_; }

  /// Waits for all processes and throws, on all, when they bring different numbers of devices.
  void meet();
  /// Waits until all processes leave; after a failure not longer than a moment. Says whether all did.
  bool leave();

  // These are called with the mutex of `shared` held.
  /// A device of this process posted its end of a message.
  void posted(const MessagePtr& message);
  /// A device of this process waits.
  void waits(int device);
  void arrived(int device);
  void failed(int device, const std::string& reason, bool provisional);
  void ended(int device);
  /// Those who came to the next barrier before this process knew that the last one was complete.
  void arrive_early_ones();

  /// Brings everything forward that can be without waiting; false when there was nothing, or when another
  /// thread is at it. Called without the mutex.
  bool progress();
  /// The same at most once in a while.
  void progress_at_times();
  /// Sends the notes that wait, as far as a moment suffices.
  void flush();

 private:
  struct Note;
  /// Of a payload. Where the sender's window is shared it lies there, and its number is in the parcel.
  struct Piece {
    Processes::TransferPtr transfer;
    Parcel parcel;
    std::int64_t bytes = 0;
    int number = -1;
  };
  /// The payload of a message.
  struct Flow {
    MessagePtr message;
    bool outgoing = false;
    HostWindow window;  ///< the sender's, if this is shared
    std::int64_t bytes = 0, begun = 0, ended = 0;
    std::deque<Piece> pieces = {};  ///< under way, oldest first
  };

  int process_of(int device) const { return device / own_devices_; }
  int peer_of(const Message& message) const;
  std::string name_of_process(int process) const;

  // What the watchdog asks and says.
  std::vector<DeviceState> own_devices() override;
  void heard(int process, std::span<const DeviceState> devices) override;
  void told(const DeviceFailure& failure) override;
  void lost(int process, Loss loss, DeviceState::Clock::time_point since) override;
  void tell(int process, const Note& note);
  void tell_all(const Note& note);
  void announce(const MessagePtr& message);
  void begin(const MessagePtr& message);
  void take(const Note& note);
  void take_message(const Note& note);
  void take_arrival(const Note& note);
  void listen();
  /// Runs progress until ready() holds, which is called with the mutex held; false at the deadline.
  template <class Ready>
  bool work_until(std::chrono::steady_clock::time_point deadline, const Ready& ready);

  bool receive_notes();
  bool send_notes();
  bool move_payloads();
  bool advance(Flow& flow);
  bool begin_pieces(Flow& flow);
  Parcel parcel_of(const Flow& flow, std::int64_t bytes);
  bool fill_piece(Flow& flow, Piece& piece);
  void empty_piece(Flow& flow, Piece& piece);
  static bool is_done(const Flow& flow, Piece& piece);
  bool end_pieces(Flow& flow);
  /// Keeps the memory of a message from going away; false when it has.
  bool borrow(const MessagePtr& message);
  void give_back(const MessagePtr& message);

  ThreadShared& shared_;
  const std::shared_ptr<Processes> processes_;
  const int own_devices_;
  const bool overlap_;
  const int note_channel_;

  // Guarded by the mutex of `shared`.
  std::deque<std::pair<int, std::shared_ptr<Note>>> outbox_;
  std::vector<MessagePtr> matched_;
  std::vector<MessagePtr> held_back_;               ///< until their device waits
  std::vector<std::optional<Contribution>> early_;  ///< by device
  std::vector<int> brings_;                         ///< devices of each process; 0: not met yet
  std::vector<bool> left_;                          ///< or lost, so that nobody waits for it
  std::vector<bool> lost_;                          ///< nothing is told it any more
  std::vector<int> messages_to_;                    ///< sent to each process: chooses the channel
  bool idle_ = true;                                ///< no note is on its way out

  std::atomic<std::int64_t> next_progress_ns_ = 0;

  // Used by the thread whose turn it is.
  std::mutex turn_;
  Parcel note_place_;
  Processes::TransferPtr note_receive_;
  std::list<std::pair<int, Processes::TransferPtr>> note_sends_;  ///< and to whom
  std::list<Flow> flows_;
  std::vector<Parcel> spare_;
};

}  // namespace rondo
