#include "rondo/comm/process_link.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <type_traits>

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;

/// How long a process that failed waits for the others to notice before it leaves.
constexpr auto kGrace = std::chrono::seconds(2);
/// How often devices that compute look for messages.
constexpr auto kProgressInterval = std::chrono::milliseconds(1);
constexpr int kNoteChannels = 2;  // rings that follow each other take turns

}  // namespace

/// What processes tell each other, as it stands in memory: all run the same program on the same kind of
/// machine.
struct ProcessLink::Note {
  enum class Kind : std::int32_t { meet, send_posted, receive_posted, arrived, ended, left };
  Kind kind = Kind::meet;
  std::int32_t process = 0;
  std::int32_t from = 0, to = 0;  ///< devices; `from` is the one that a note is about
  std::int64_t tag = 0, bytes = 0;
  DType dtype = DType::f32;
  Message::Kind message_kind = Message::Kind::copy;
  std::int32_t root = 0, channel = 0, devices = 0;
  std::int64_t step = -1;  ///< that device `from` is in
  std::array<char, 512> words = {}, invalid = {};
  std::array<std::byte, Contribution::kSmall> small = {};
};

namespace {

template <std::size_t N>
void put(std::array<char, N>& place, const std::string& text) {
  std::memcpy(place.data(), text.data(), std::min(text.size(), N - 1));
}

}  // namespace

ProcessLink::ProcessLink(ThreadShared& shared, std::shared_ptr<Processes> processes, int own_devices,
                         bool overlap)
    : shared_(shared),
      processes_(std::move(processes)),
      own_devices_(own_devices),
      overlap_(overlap),
      note_channel_(processes_->begin_ring(shared.timeout) % kNoteChannels),
      early_(static_cast<std::size_t>(shared.size())),
      brings_(static_cast<std::size_t>(processes_->size())),
      left_(brings_.size()),
      lost_(brings_.size()),
      messages_to_(brings_.size()),
      note_place_{std::make_shared<std::byte[]>(sizeof(Note)), sizeof(Note)} {
  static_assert(std::is_trivially_copyable_v<Note>);
  const auto own = static_cast<std::size_t>(processes_->rank());
  brings_[own] = own_devices_;
  left_[own] = true;
  listen();
}

ProcessLink::~ProcessLink() { processes_->watchdog().watch(nullptr, shared_.timeout); }

template <class Ready>
bool ProcessLink::work_until(Clock::time_point deadline, const Ready& ready) {
  for (;;) {
    const bool moved = progress();
    {
      const std::lock_guard lock(shared_.mutex);
      if (ready()) return true;
    }
    if (moved) continue;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

void ProcessLink::meet() {
  processes_->watchdog().watch(this, shared_.timeout);
  {
    const std::lock_guard lock(shared_.mutex);
    tell_all({.kind = Note::Kind::meet, .devices = own_devices_});
  }
  const auto absent = [this] { return std::find(brings_.begin(), brings_.end(), 0) - brings_.begin(); };
  const auto processes = static_cast<std::ptrdiff_t>(brings_.size());
  const auto all_here = [&] { return absent() == processes; };
  const auto decided = [&] { return all_here() || lost_[static_cast<std::size_t>(absent())]; };
  work_until(Clock::now() + shared_.timeout, decided);
  const std::lock_guard lock(shared_.mutex);
  if (!all_here()) {
    shared_.check_alive();
    throw CommunicationError(fmt::format("[ring] process {} waited {:g} s for process {} to begin",
                                         processes_->rank(),
                                         std::chrono::duration<double>(shared_.timeout).count(), absent()));
  }
  for (std::size_t p = 0; p < brings_.size(); ++p)
    check_argument(brings_[p] == brings_[0], "ring",
                   "expected as many devices on every process, got {} on process 0 and {} on process {}",
                   brings_[0], brings_[p], p);
}

void ProcessLink::flush() {
  work_until(Clock::now() + std::chrono::milliseconds(20), [this] { return outbox_.empty(); });
}

bool ProcessLink::leave() {
  const auto failed = [this] { return shared_.failed_device >= 0; };
  {
    const std::lock_guard lock(shared_.mutex);
    if (!failed()) tell_all({.kind = Note::Kind::left});
  }
  const auto all_left = [this] {
    return idle_ && outbox_.empty() && std::find(left_.begin(), left_.end(), false) == left_.end();
  };
  const auto is_over = [&] { return failed() || all_left(); };
  const auto look = [&] {
    const std::lock_guard lock(shared_.mutex);
    return failed();
  };
  bool fails = look();
  const bool over = !fails && work_until(Clock::now() + shared_.timeout, is_over);
  // Another process may have failed while this one waited for it.
  if (over && !look()) progress();
  fails = look();
  processes_->end_ring(over && !fails);
  // After a failure nothing is asked of MPI any more, which may be stuck where a process died.
  if (fails) (void)processes_->watchdog().part(std::min<std::chrono::milliseconds>(shared_.timeout, kGrace));
  return over;
}

int ProcessLink::peer_of(const Message& message) const {
  return process_of(is_local(message.from) ? message.to : message.from);
}

void ProcessLink::tell(int process, const Note& note) {
  if (lost_[static_cast<std::size_t>(process)]) return;
  auto copy = std::make_shared<Note>(note);
  copy->process = processes_->rank();
  outbox_.emplace_back(process, std::move(copy));
}

void ProcessLink::tell_all(const Note& note) {
  for (int process = 0; process < processes_->size(); ++process)
    if (process != processes_->rank()) tell(process, note);
}

void ProcessLink::posted(const MessagePtr& message) {
  if (overlap_)
    announce(message);
  else
    held_back_.push_back(message);
}

void ProcessLink::waits(int device) {
  if (held_back_.empty()) return;
  std::erase_if(held_back_, [&](const MessagePtr& message) {
    const bool own = (is_local(message->from) ? message->from : message->to) == device;
    if (own && !message->withdrawn) announce(message);
    return own;
  });
}

void ProcessLink::announce(const MessagePtr& message) {
  const bool sends = is_local(message->from);
  message->announced = true;
  const int process = peer_of(*message);
  if (sends) {
    int& number = messages_to_[static_cast<std::size_t>(process)];
    message->channel = kNoteChannels + number;
    number = (number + 1) % (Processes::kChannels - kNoteChannels);
  }
  const ConstTensor data = sends ? message->source : message->destination;
  tell(process, {.kind = sends ? Note::Kind::send_posted : Note::Kind::receive_posted,
                 .from = message->from,
                 .to = message->to,
                 .tag = message->tag,
                 .bytes = data.bytes(),
                 .dtype = data.dtype,
                 .message_kind = message->kind,
                 .channel = message->channel,
                 .step = sends ? message->sent_in : message->received_in});
  if (message->matched()) begin(message);
}

void ProcessLink::begin(const MessagePtr& message) {
  if (!message->mismatch.empty()) return;
  message->done = message->source.bytes() == 0;
  if (!message->done) matched_.push_back(message);
}

void ProcessLink::arrived(int device) {
  const Contribution& own = shared_.at(device).contribution;
  Note note{.kind = Note::Kind::arrived,
            .from = device,
            .bytes = own.bytes,
            .root = own.root,
            .step = own.step,
            .small = own.small};
  put(note.words, own.operation);
  put(note.invalid, own.invalid);
  tell_all(note);
}

void ProcessLink::failed(int device, const std::string& reason, bool provisional) {
  processes_->watchdog().tell({.device = device, .provisional = provisional, .reason = reason});
}

void ProcessLink::ended(int device) { tell_all({.kind = Note::Kind::ended, .from = device}); }

void ProcessLink::take(const Note& note) {
  switch (note.kind) {
    case Note::Kind::meet:
      brings_[static_cast<std::size_t>(note.process)] = note.devices;
      return;
    case Note::Kind::left:
      left_[static_cast<std::size_t>(note.process)] = true;
      return;
    case Note::Kind::ended:
      shared_.at(note.from).ended = true;
      shared_.wake_all();
      return;
    case Note::Kind::arrived:
      return take_arrival(note);
    case Note::Kind::send_posted:
    case Note::Kind::receive_posted:
      return take_message(note);
  }
}

void ProcessLink::take_message(const Note& note) {
  const bool sends = note.kind == Note::Kind::send_posted;
  Message half{.from = note.from, .to = note.to, .tag = note.tag, .sent = sends, .received = !sends};
  const Tensor data = view(static_cast<void*>(nullptr), note.dtype, note.bytes / size_of(note.dtype), 1, 1);
  if (sends)
    half.source = data;
  else
    half.destination = data;
  half.kind = note.message_kind;
  (sends ? half.sent_in : half.received_in) = note.step;
  const MessagePtr message = shared_.pair(half);
  message->remote = true;
  if (sends) message->channel = note.channel;
  if (message->matched() && message->announced) begin(message);
}

void ProcessLink::take_arrival(const Note& note) {
  Contribution contribution{.operation = note.words.data(),
                            .bytes = note.bytes,
                            .root = note.root,
                            .step = note.step,
                            .invalid = note.invalid.data(),
                            .small = note.small};
  ThreadShared::Device& device = shared_.at(note.from);
  if (device.arrived) {
    early_[static_cast<std::size_t>(note.from)] = std::move(contribution);
    return;
  }
  device.contribution = std::move(contribution);
  shared_.arrive(note.from, false);
}

void ProcessLink::arrive_early_ones() {
  for (std::size_t d = 0; d < early_.size(); ++d) {
    if (!early_[d]) continue;
    shared_.devices[d].contribution = std::move(*early_[d]);
    early_[d].reset();
    shared_.arrive(static_cast<int>(d), false);
  }
}

void ProcessLink::progress_at_times() {
  const std::int64_t now = Clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  if (now < next_progress_ns_.load(std::memory_order_relaxed)) return;
  progress();
  next_progress_ns_.store(now + kProgressInterval / std::chrono::nanoseconds(1), std::memory_order_relaxed);
}

bool ProcessLink::progress() {
  const std::unique_lock turn(turn_, std::try_to_lock);
  if (!turn) return false;
  {
    // From a failure on nothing is asked of MPI, which may be stuck where a process died; the watchdog tells
    // it.
    const std::lock_guard lock(shared_.mutex);
    if (shared_.failed_device >= 0) {
      outbox_.clear();
      flows_.clear();
      return false;
    }
  }
  bool moved = receive_notes();
  moved = send_notes() || moved;
  return move_payloads() || moved;
}

void ProcessLink::listen() {
  note_receive_ = processes_->receive(Processes::kAny, note_channel_, note_place_);
}

bool ProcessLink::receive_notes() {
  bool moved = false;
  while (note_receive_->done()) {
    Note note;
    std::memcpy(&note, note_place_.data.get(), sizeof(Note));
    listen();
    const std::lock_guard lock(shared_.mutex);
    take(note);
    moved = true;
  }
  return moved;
}

bool ProcessLink::send_notes() {
  std::deque<std::pair<int, std::shared_ptr<Note>>> notes;
  std::vector<bool> lost;
  {
    const std::lock_guard lock(shared_.mutex);
    notes.swap(outbox_);
    lost = lost_;
    if (!notes.empty()) idle_ = false;
  }
  for (auto& [process, note] : notes) {
    const std::shared_ptr<std::byte[]> bytes(note, reinterpret_cast<std::byte*>(note.get()));
    note_sends_.emplace_back(process, processes_->send(process, note_channel_, {bytes, sizeof(Note)}));
  }
  std::erase_if(note_sends_, [&](const auto& send) {
    return lost[static_cast<std::size_t>(send.first)] || send.second->done();
  });
  if (note_sends_.empty()) {
    const std::lock_guard lock(shared_.mutex);
    idle_ = outbox_.empty();
  }
  return !notes.empty();
}

}  // namespace rondo
