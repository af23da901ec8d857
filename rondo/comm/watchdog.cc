#include "rondo/comm/watchdog.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "rondo/core/error.h"

namespace rondo {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds kMostSilence{60'000}, kMostInterval{1000};
/// How long a device's own words may take once it is known that it failed.
constexpr milliseconds kOwnWords{100};
constexpr int kBeatsPerSilence = 5;
constexpr std::uint32_t kMostBytes = 1 << 20;  // of a message
constexpr int kMostDevices = 1024;             // that a heartbeat tells of

}  // namespace

// As they stand in memory: all processes run the same program on the same kind of machine.
struct Watchdog::Header {
  Kind kind = Kind::beat;
  std::uint32_t bytes = 0;
  std::int64_t interval_ms = 0;  ///< until the next heartbeat at the latest
};
struct Watchdog::FailureWords {
  std::int32_t device = -1, provisional = 0;
  std::array<char, 1024> reason = {};
};
struct Watchdog::BeatState {
  std::int64_t step = -1, age_ns = 0;  ///< clocks of two hosts do not agree, ages do
  std::int64_t waits_for = -1;
  std::array<char, 128> doing = {};
};

Watchdog::Watchdog(int rank, std::vector<ControlPeer> peers)
    : rank_(rank),
      peers_(peers.size()),
      silence_(kMostSilence),
      last_turn_(Clock::now()),
      next_beat_(last_turn_) {
  for (std::size_t p = 0; p < peers.size(); ++p) {
    peers_[p].host = std::move(peers[p].host);
    peers_[p].socket = std::move(peers[p].socket);
    peers_[p].present = static_cast<bool>(peers_[p].socket);
    peers_[p].heard = last_turn_;
  }
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0)
    throw CommunicationError(fmt::format("[watchdog] expected a pipe, got: {}", std::strerror(errno)));
  wake_receive_ = Socket(ends[0]);
  wake_send_ = Socket(ends[1]);
  thread_ = std::jthread([this] { run(); });
}

Watchdog::~Watchdog() {
  send_to_all(Kind::goodbye, {}, false);
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  wake();
}

milliseconds Watchdog::silence_limit(milliseconds timeout) {
  return std::clamp(timeout / 4, milliseconds(1), kMostSilence);
}

milliseconds Watchdog::interval() const {
  return std::clamp(silence_ / kBeatsPerSilence, milliseconds(1), kMostInterval);
}

milliseconds Watchdog::patience(const Peer& peer) const {
  return std::max(silence_, kBeatsPerSilence * peer.interval);
}

bool Watchdog::waits_for_words() const { return failure_.device >= 0 && failure_.provisional && !told_; }

void Watchdog::wake() {
  const char byte = 0;
  if (::write(wake_send_.fd(), &byte, 1) < 0) return;  // full: it wakes anyway
}

void Watchdog::watch(Watched* ring, milliseconds timeout) {
  const std::lock_guard ring_lock(ring_mutex_);
  ring_ = ring;
  {
    const std::lock_guard lock(mutex_);
    watching_ = ring != nullptr;
    silence_ = silence_limit(timeout);
    beats_.clear();
    next_beat_ = Clock::now();
    told_ = false;
    for (Peer& peer : peers_) {
      peer.heard = Clock::now();
      peer.reported = false;
    }
  }
  if (ring != nullptr) report();
  wake();
}

void Watchdog::tell(const DeviceFailure& failure) {
  FailureWords words{.device = failure.device, .provisional = failure.provisional ? 1 : 0};
  std::memcpy(words.reason.data(), failure.reason.data(),
              std::min(failure.reason.size(), words.reason.size() - 1));
  send_to_all(Kind::failure, std::as_bytes(std::span(&words, 1)), false);
  wake();
}

bool Watchdog::part(milliseconds limit) {
  send_to_all(Kind::goodbye, {}, false);
  wake();
  const auto is_here = [](const Peer& peer) { return peer.present && !peer.said_goodbye; };
  std::unique_lock lock(mutex_);
  const bool in_time =
      changed_.wait_for(lock, limit, [&] { return std::none_of(peers_.begin(), peers_.end(), is_here); });
  return in_time && std::all_of(peers_.begin(), peers_.end(), [&](const Peer& peer) {
           return &peer == &peers_[static_cast<std::size_t>(rank_)] || peer.said_goodbye;
         });
}

void Watchdog::run() {
  for (;;) {
    Clock::time_point until;
    {
      const std::lock_guard lock(mutex_);
      if (stops_) return;
      until = waits_for_words() ? std::min(next_beat_, failure_since_ + kOwnWords) : next_beat_;
    }
    sleep_until(until);
    const std::lock_guard ring_lock(ring_mutex_);
    const auto now = Clock::now();
    {
      const std::lock_guard lock(mutex_);
      // A process that was stopped, or a machine that was too busy to run it, must not take its own absence
      // for the silence of the others.
      if (const auto absence = now - last_turn_ - 2 * interval(); absence > Clock::duration::zero())
        for (Peer& peer : peers_) peer.heard += absence;
      last_turn_ = now;
      read_all(now);
    }
    beat(now);
    {
      const std::lock_guard lock(mutex_);
      judge(now);
    }
    report();
  }
}

void Watchdog::sleep_until(Clock::time_point moment) {
  std::vector<pollfd> entries{{wake_receive_.fd(), POLLIN, 0}};
  {
    const std::lock_guard lock(mutex_);
    for (const Peer& peer : peers_)
      if (peer.present)
        entries.push_back(
            {peer.socket.fd(), static_cast<short>(peer.outgoing.empty() ? POLLIN : POLLIN | POLLOUT), 0});
  }
  const auto left = std::chrono::ceil<milliseconds>(moment - Clock::now()).count();
  ::poll(entries.data(), entries.size(), static_cast<int>(std::max<std::int64_t>(0, left)));
  std::array<char, 64> bytes;
  while (::read(wake_receive_.fd(), bytes.data(), bytes.size()) > 0) continue;
}

void Watchdog::beat(Clock::time_point now) {
  {
    const std::lock_guard lock(mutex_);
    if (now < next_beat_) return;
    next_beat_ = now + interval();
  }
  std::vector<BeatState> states;
  if (ring_ != nullptr) {
    auto devices = ring_->own_devices();
    devices.resize(std::min<std::size_t>(devices.size(), kMostDevices));
    for (const DeviceState& device : devices)
      states.push_back({.step = device.step,
                        .age_ns = std::chrono::nanoseconds(now - device.since).count(),
                        .waits_for = device.waits_for,
                        .doing = device.doing});
  }
  send_to_all(Kind::beat, std::as_bytes(std::span(states)), true);
}

void Watchdog::read_all(Clock::time_point now) {
  for (std::size_t p = 0; p < peers_.size(); ++p) {
    Peer& peer = peers_[p];
    if (!peer.present) continue;
    const bool open = read(peer, now);
    parse(static_cast<int>(p), peer, now);
    if (peer.present && !open) lose(peer, peer.said_goodbye ? Loss::left : Loss::died, now);
    if (peer.present) drain(peer);
  }
}

bool Watchdog::read(Peer& peer, Clock::time_point now) {
  std::array<std::byte, 4096> block;
  for (;;) {
    const ssize_t got = ::recv(peer.socket.fd(), block.data(), block.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    if (got == 0) return false;
    peer.heard = now;
    peer.incoming.insert(peer.incoming.end(), block.begin(), block.begin() + got);
  }
}

void Watchdog::parse(int process, Peer& peer, Clock::time_point now) {
  std::size_t at = 0;
  while (peer.incoming.size() - at >= sizeof(Header)) {
    Header header;
    std::memcpy(&header, peer.incoming.data() + at, sizeof(header));
    if (header.bytes > kMostBytes) return lose(peer, Loss::died, now);  // no language that we speak
    if (peer.incoming.size() - at - sizeof(header) < header.bytes) break;
    take(process, peer, header, peer.incoming.data() + at + sizeof(header), now);
    at += sizeof(header) + header.bytes;
  }
  peer.incoming.erase(peer.incoming.begin(), peer.incoming.begin() + static_cast<std::ptrdiff_t>(at));
}

void Watchdog::take(int process, Peer& peer, const Header& header, const std::byte* body,
                    Clock::time_point now) {
  peer.interval = std::clamp(milliseconds(header.interval_ms), milliseconds(1), kMostInterval);
  if (header.kind == Kind::goodbye) {
    peer.said_goodbye = true;
    peer.loss = Loss::left;
    peer.lost_at = now;
    changed_.notify_all();
  } else if (header.kind == Kind::failure && header.bytes == sizeof(FailureWords)) {
    FailureWords words;
    std::memcpy(&words, body, sizeof(words));
    const bool improves = failure_.device == words.device && failure_.provisional && words.provisional == 0;
    if (failure_.device >= 0 && !improves) return;
    failure_ = {words.device, words.provisional != 0, words.reason.data()};
    told_ = false;
    failure_since_ = now;
  } else if (header.kind == Kind::beat) {
    Beat beat{.process = process, .devices = {}};
    for (std::size_t n = 0; n < header.bytes / sizeof(BeatState); ++n) {
      BeatState state;
      std::memcpy(&state, body + n * sizeof(state), sizeof(state));
      beat.devices.push_back({.step = state.step,
                              .waits_for = static_cast<int>(state.waits_for),
                              .since = now - std::chrono::nanoseconds(state.age_ns),
                              .doing = state.doing});
    }
    if (watching_ && !beat.devices.empty()) beats_.push_back(std::move(beat));
  }
}

void Watchdog::lose(Peer& peer, Loss loss, Clock::time_point since) {
  peer.present = false;
  peer.loss = loss;
  peer.lost_at = since;
  changed_.notify_all();
}

void Watchdog::judge(Clock::time_point now) {
  if (!watching_) return;
  const auto late = [&](const Peer& peer, milliseconds allowance) {
    return peer.present && !peer.said_goodbye && now - peer.heard >= patience(peer) - allowance;
  };
  int here = 0, silent = 0, nearly_silent = 0;
  Clock::time_point heard = {};
  for (const Peer& peer : peers_) {
    here += peer.present && !peer.said_goodbye ? 1 : 0;
    silent += late(peer, milliseconds(0)) ? 1 : 0;
    nearly_silent += late(peer, 2 * interval()) ? 1 : 0;
    heard = std::max(heard, peer.heard);
  }
  if (silent == 0) return;
  // All fell silent within about a heartbeat of each other: it is this process that cannot hear.
  if (here >= 2 && nearly_silent == here) {
    cut_off_ = true;
    cut_off_since_ = heard;
    return;
  }
  for (Peer& peer : peers_)
    if (late(peer, milliseconds(0))) lose(peer, Loss::silent, peer.heard);
}

void Watchdog::report() {
  struct Lost {
    int process;
    Loss loss;
    Clock::time_point since;
  };
  std::vector<Beat> beats;
  std::vector<Lost> lost;
  DeviceFailure failure;
  {
    const std::lock_guard lock(mutex_);
    if (!watching_) return;
    beats.swap(beats_);
    if (!waits_for_words() || Clock::now() >= failure_since_ + kOwnWords)
      if (!std::exchange(told_, true)) failure = failure_;
    if (std::exchange(cut_off_, false)) lost.push_back({rank_, Loss::cut_off, cut_off_since_});
    for (std::size_t p = 0; p < peers_.size(); ++p) {
      Peer& peer = peers_[p];
      if (static_cast<int>(p) == rank_ || (peer.present && !peer.said_goodbye) || peer.reported) continue;
      peer.reported = true;
      lost.push_back({static_cast<int>(p), peer.loss, peer.lost_at});
    }
  }
  for (const Beat& beat : beats) ring_->heard(beat.process, beat.devices);
  // What a process said of itself before it went comes before its going.
  if (failure.device >= 0) ring_->told(failure);
  for (const Lost& loss : lost) ring_->lost(loss.process, loss.loss, loss.since);
}

void Watchdog::send(Peer& peer, std::span<const std::byte> frame) {
  peer.outgoing.insert(peer.outgoing.end(), frame.begin(), frame.end());
  drain(peer);
}

void Watchdog::drain(Peer& peer) {
  while (!peer.outgoing.empty()) {
    const ssize_t sent =
        ::send(peer.socket.fd(), peer.outgoing.data(), peer.outgoing.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) peer.outgoing.clear();  // reading tells why
    if (sent < 0) return;
    peer.outgoing.erase(peer.outgoing.begin(), peer.outgoing.begin() + sent);
  }
}

void Watchdog::send_to_all(Kind kind, std::span<const std::byte> body, bool unless_busy) {
  Header header{kind, static_cast<std::uint32_t>(body.size())};
  std::vector<std::byte> frame(sizeof(header) + body.size());
  if (!body.empty()) std::memcpy(frame.data() + sizeof(header), body.data(), body.size());
  const std::lock_guard lock(mutex_);
  header.interval_ms = interval().count();
  std::memcpy(frame.data(), &header, sizeof(header));
  for (Peer& peer : peers_)
    if (peer.present && !(unless_busy && !peer.outgoing.empty())) send(peer, frame);
}

}  // namespace rondo
