#include "rondo/comm/thread_shared.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "rondo/comm/process_link.h"

namespace rondo {

ThreadShared::ThreadShared(int count, std::chrono::milliseconds limit)
    : timeout(std::min(limit, std::chrono::milliseconds(std::chrono::hours(24 * 365)))),
      devices(static_cast<std::size_t>(count)),
      snapshot(static_cast<std::size_t>(count)) {
  for (Device& device : devices) device.state.since = std::chrono::steady_clock::now();
}

ThreadShared::~ThreadShared() = default;

void ThreadShared::wake_all() {
  for (Device& device : devices) device.wake.notify_all();
}

void ThreadShared::fail(int device, const std::string& reason, bool provisional, bool tells) {
  const bool first = failed_device < 0;
  if (!first && !(failed_device == device && failure_provisional && !provisional)) return;
  failed_device = device;
  failure = reason;
  failure_provisional = provisional;
  if (first) wake_all();
  if (link && tells) link->failed(device, reason, provisional);
}

void ThreadShared::begin_wait(int device) { link->waits(device); }

bool ThreadShared::rest(Lock& lock, int device, std::chrono::steady_clock::time_point deadline, int& rests) {
  if (!link) return at(device).wake.wait_until(lock, deadline) == std::cv_status::timeout;
  // Nothing wakes a device when something comes from another process: it has to look, less and less often.
  // Naps grow from 55 to 500 microseconds in the first 25 ms.
  constexpr int kYields = 10, kGrowing = 90;
  const int naps = std::min(rests - kYields, kGrowing);
  if (naps > 0) at(device).wake.wait_for(lock, std::chrono::microseconds(50 + 5 * naps));
  lock.unlock();
  if (rests > 0 && rests <= kYields) std::this_thread::yield();
  rests = link->progress() ? 0 : rests + 1;
  lock.lock();
  return std::chrono::steady_clock::now() >= deadline;
}

std::string ThreadShared::words() const {
  return fmt::format("[communicator] device {} failed: {}", failed_device, failure);
}

void ThreadShared::check_alive() const {
  if (failed_device >= 0) throw CommunicationError(words());
}

int ThreadShared::awaited_by(int device) const {
  const Device& own = devices[static_cast<std::size_t>(device)];
  if (!own.arrived) return own.state.waits_for;
  // At a barrier: whoever is missing now, which nobody told those that came early.
  int missing = 0;
  while (missing < size() && devices[static_cast<std::size_t>(missing)].arrived) ++missing;
  return missing < size() ? missing : -1;
}

int ThreadShared::end_of_chain(int device) const {
  for (int links = 0; links < size(); ++links) {
    const int next = awaited_by(device);
    if (next < 0) return device;
    device = next;
  }
  return -1;
}

void ThreadShared::give_up(int device, int peer, const char* doing) {
  const auto now = std::chrono::steady_clock::now();
  const auto seconds = [](auto time) { return std::chrono::duration<double>(time).count(); };
  const bool ended = at(peer).ended;
  const std::string waited =
      (ended ? fmt::format("waited for device {}, which has ended ({})", peer, doing)
             : fmt::format("waited {:g} s for device {} ({})", seconds(timeout), peer, doing)) +
      posted_by(peer, device);
  const int end = ended ? -1 : end_of_chain(peer);
  if (end < 0) {  // a circle, in which nobody is to blame more than others
    fail(device, waited, false);
  } else {
    const DeviceState& state = at(end).state;
    const std::string place = place_of(state);
    fail(end,
         fmt::format("it exchanges nothing since {} ({:.3g} s){}, computing or hanging; device {} {}",
                     time_of_day(state.since), seconds(now - state.since),
                     place.empty() ? std::string() : " after " + place, device, waited),
         false);
  }
  if (end >= 0) check_alive();
  throw CommunicationError(fmt::format("[communicator] device {} {}", device, waited));
}

void ThreadShared::flush(Lock& lock) const {
  lock.unlock();
  link->flush();
  lock.lock();
}

std::string ThreadShared::posted_by(int peer, int device) const {
  std::string words;
  for (const auto& [key, message] : unmatched) {
    const bool sends = message->sent && message->from == peer && message->to == device;
    const bool receives = message->received && message->to == peer && message->from == device;
    if (!sends && !receives) continue;
    words += fmt::format("{}{} of tag {}", words.empty() ? "; it waits with " : ", ",
                         sends ? "a send" : "a receive", message->tag);
  }
  return words;
}

namespace {

std::string mismatch_of(const Message& message) {
  const ConstTensor& sent = message.source;
  const Tensor& into = message.destination;
  if (message.sent_in != message.received_in)
    return fmt::format(
        "[exchange] expected both ends in the same step (tag {}), got step {} on device {} and step {} on "
        "device {}",
        message.tag, message.sent_in, message.from, message.received_in, message.to);
  if (message.kind == Message::Kind::view || (sent.bytes() == into.bytes() && sent.dtype == into.dtype))
    return "";
  return fmt::format(
      "[exchange] device {} expected {} bytes of {} from device {} (tag {}), got {} bytes of {}", message.to,
      into.bytes(), name_of(into.dtype), message.from, message.tag, sent.bytes(), name_of(sent.dtype));
}

void move_data(const Message& message) {
  if (message.source.elements() == 0) return;
  if (message.kind == Message::Kind::copy) {
    std::memcpy(message.destination.data, message.source.data,
                static_cast<std::size_t>(message.source.bytes()));
    return;
  }
  auto* into = static_cast<float*>(message.destination.data);
  const auto* from = static_cast<const float*>(message.source.data);
  for (std::int64_t i = 0; i < message.source.elements(); ++i) into[i] += from[i];
}

}  // namespace

MessagePtr ThreadShared::post(const Message& half) {
  check_alive();
  const int own = half.sent ? half.from : half.to;
  const int peer = half.sent ? half.to : half.from;
  auto& posted = half.sent ? at(own).sends : at(own).receives;
  check_argument(
      posted.insert({peer, half.tag}).second, half.sent ? "send" : "receive",
      "expected tag {} of device {} for device {} to be waited for before it is posted again, got it twice",
      half.tag, own, peer);
  Message dated = half;
  (half.sent ? dated.sent_in : dated.received_in) = at(own).state.step;
  const MessagePtr message = pair(dated);
  message->remote = link && !link->is_local(peer);
  if (message->remote) link->posted(message);
  return message;
}

MessagePtr ThreadShared::pair(const Message& half) {
  const int peer = half.sent ? half.to : half.from;
  const auto [place, is_new] = unmatched.try_emplace({half.from, {half.to, half.tag}});
  if (is_new) {
    place->second = std::make_shared<Message>(half);
    return place->second;
  }
  const MessagePtr message = place->second;
  unmatched.erase(place);
  if (half.sent) {
    message->source = half.source;
    message->sent_in = half.sent_in;
  } else {
    message->received_in = half.received_in;
    message->destination = half.destination;
    message->kind = half.kind;
  }
  message->sent = message->received = true;
  message->paired = std::chrono::steady_clock::now();
  message->mismatch = mismatch_of(*message);
  at(peer).wake.notify_all();
  return message;
}

void ThreadShared::transfer(Lock& lock, const MessagePtr& message) {
  message->busy = true;
  start_reading(message);
  lock.unlock();
  move_data(*message);
  lock.lock();
  message->busy = false;
  stop_reading(*message);
}

void ThreadShared::release_view(Message& message) {
  message.held = false;
  stop_reading(message);
}

void ThreadShared::stop_reading(Message& message) {
  message.done = true;
  std::erase_if(active, [&](const MessagePtr& other) { return other.get() == &message; });
  at(message.from).wake.notify_all();
  if (failed_device >= 0) wake_all();  // the owner of the memory may be another than the sender
}

bool ThreadShared::is_read(const ConstTensor& memory) const {
  const auto first = [](const ConstTensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data); };
  const auto last = [&](const ConstTensor& tensor) {
    return first(tensor) + static_cast<std::uintptr_t>(tensor.bytes());
  };
  for (const MessagePtr& message : active) {
    const ConstTensor& other = message->source;
    const bool overlaps = first(other) < last(memory) && first(memory) < last(other);
    if (overlaps && (message->busy || !devices[static_cast<std::size_t>(message->to)].quiet)) return true;
  }
  return false;
}

void ThreadShared::abandon(Lock& lock, const MessagePtr& message, bool sender) {
  const int own = sender ? message->from : message->to;
  (sender ? at(own).sends : at(own).receives).erase({sender ? message->to : message->from, message->tag});
  if (!message->matched()) unmatched.erase({message->from, {message->to, message->tag}});
  message->withdrawn = true;
  fail(own, "it left messages that it had posted", true);
  if (message->remote) at(own).wake.wait(lock, [&] { return !message->busy; });
  if (!sender) return;
  // This device computes no longer, so it reads no views: without this, two devices that unwind while each
  // holds a view of the other would wait for each other.
  at(own).quiet = true;
  wake_all();
  at(own).wake.wait(lock, [&] { return !is_read(message->source); });
}

}  // namespace rondo
