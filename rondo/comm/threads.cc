#include "rondo/comm/threads.h"

#include "rondo/comm/process_link.h"
#include "rondo/comm/processes.h"
#include "rondo/comm/thread_shared.h"

namespace rondo {

namespace {

using Lock = ThreadShared::Lock;

class ThreadRequest final : public Request {
 public:
  ThreadRequest(std::shared_ptr<ThreadShared> shared, MessagePtr message, bool sender,
                ConstTensor* view = nullptr)
      : shared_(std::move(shared)), message_(std::move(message)), sender_(sender), view_(view) {}
  ~ThreadRequest() override {
    Lock lock(shared_->mutex);
    if (!waited_)
      shared_->abandon(lock, message_, sender_);
    else if (!sender_ && message_->held)
      shared_->release_view(*message_);
  }

  int own() const { return sender_ ? message_->from : message_->to; }
  int peer() const { return sender_ ? message_->to : message_->from; }
  bool waited() const { return waited_; }
  bool views() const { return view_ != nullptr; }

  void wait(Lock& lock, const char* doing, DeviceTrace& trace) {
    DeviceTrace::Span span(trace, "wait", trace.enabled() ? doing : "");
    if (own() == peer()) serve_itself(lock, doing);
    const auto ready = [this] {
      if (!message_->mismatch.empty()) return true;
      return sender_ && !message_->remote ? message_->done : message_->matched() && !message_->withdrawn;
    };
    const auto under_way = [this] { return message_->remote && message_->matched(); };
    shared_->await(
        lock, own(), doing, ready, [this] { return peer(); }, under_way);
    if (!message_->mismatch.empty()) {
      finish();
      throw ArgumentError(fmt::format("{}, doing {}", message_->mismatch, doing));
    }
    shared_->check_alive();
    if (message_->remote || (!sender_ && !message_->done)) take(lock, doing, span);
    finish();
  }
  void release() {
    Lock lock(shared_->mutex);
    if (message_->held) shared_->release_view(*message_);
  }

 private:
  void take(Lock& lock, const char* doing, DeviceTrace::Span& span) {
    if (views()) {
      *view_ = message_->source;
      message_->held = true;
      shared_->start_reading(message_);
      return;
    }
    // Whoever looks for the other end may bring its data forward in the same breath.
    span.turn("exchange", message_->remote ? message_->paired : std::chrono::steady_clock::now());
    if (!message_->remote) return shared_->transfer(lock, message_);
    shared_->await(
        lock, own(), doing, [this] { return message_->done; }, [this] { return peer(); },
        [] { return true; });
  }
  /// Both ends are on this thread, so that nobody else can bring the message forward.
  void serve_itself(Lock& lock, const char* doing) {
    const bool copies = message_->kind != Message::Kind::view;
    if (message_->matched() && message_->mismatch.empty() && copies && !message_->done)
      shared_->transfer(lock, message_);
    check_argument(message_->matched() && (!sender_ || message_->done || !message_->mismatch.empty()), "wait",
                   "expected both ends of the message of device {} to itself (tag {}, {}), got one", own(),
                   message_->tag, doing);
  }
  void finish() {
    waited_ = true;
    auto& device = shared_->at(own());
    (sender_ ? device.sends : device.receives).erase({peer(), message_->tag});
  }

  std::shared_ptr<ThreadShared> shared_;
  MessagePtr message_;
  bool sender_;
  bool waited_ = false;
  ConstTensor* view_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadShared> shared, int device, DeviceTrace trace)
      : shared_(std::move(shared)), device_(device), trace_(trace) {}

  int device() const override { return device_; }
  int devices() const override { return shared_->size(); }
  void begin_step(std::int64_t step) override {
    const std::lock_guard lock(shared_->mutex);
    shared_->at(device_).state.step = step;
  }
  bool can_share(int peer) const override { return !shared_->link || shared_->link->is_local(peer); }

  RequestPtr send(int to, Tag tag, const ConstTensor& data) override {
    check_end("send", to, data);
    return post({.from = device_, .to = to, .tag = tag, .sent = true, .source = data});
  }
  RequestPtr receive(int from, Tag tag, const Tensor& into) override {
    check_end("receive", from, into);
    return post({.from = from, .to = device_, .tag = tag, .received = true, .destination = into});
  }
  RequestPtr receive_add(int from, Tag tag, const Tensor& into) override {
    check_end("receive_add", from, into);
    check_argument(into.dtype == DType::f32, "receive_add", "expected float32, got {}", name_of(into.dtype));
    return post({.from = from,
                 .to = device_,
                 .tag = tag,
                 .received = true,
                 .destination = into,
                 .kind = Message::Kind::add});
  }
  RequestPtr receive_view(int from, Tag tag, ConstTensor* view) override {
    check_end("receive_view", from, ConstTensor());
    check_argument(view != nullptr, "receive_view", "expected a place for the view, got none");
    check_argument(can_share(from), "receive_view",
                   "expected a device of the same process as device {}, got device {} of another", device_,
                   from);
    return post({.from = from, .to = device_, .tag = tag, .received = true, .kind = Message::Kind::view},
                view);
  }

  void release(Request& request) override {
    ThreadRequest& own = own_request(request, "release");
    check_argument(own.views() && own.waited(), "release",
                   "expected a receive_view that was waited for, got another");
    own.release();
  }
  void wait(Request& request, const char* doing) override {
    ThreadRequest& own = own_request(request, "wait");
    check_argument(!own.waited(), "wait",
                   "expected a request that was not waited for yet, got one twice ({})", doing);
    Lock lock(shared_->mutex);
    own.wait(lock, doing, trace_);
  }

  void barrier() override { shared_->open(device_, {.operation = "barrier"}, trace_, false); }
  void all_reduce_sum(std::span<float> values) override { shared_->all_reduce_sum(*this, values, trace_); }
  void all_reduce_sum(std::span<double> values) override { shared_->all_reduce_sum(*this, values, trace_); }
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all) override {
    shared_->all_gather(*this, own, all, trace_);
  }
  void broadcast(int root, std::span<std::byte> data) override {
    shared_->broadcast(*this, root, data, trace_);
  }

 private:
  RequestPtr post(const Message& half, ConstTensor* view = nullptr) {
    RequestPtr request;
    if (shared_->link) shared_->link->progress();
    {
      const std::lock_guard lock(shared_->mutex);
      request = std::make_unique<ThreadRequest>(shared_, shared_->post(half), half.sent, view);
    }
    if (shared_->link) shared_->link->progress();
    return request;
  }
  void check_end(const char* operation, int peer, const ConstTensor& data) const {
    check_argument(peer >= 0 && peer < devices(), operation, "expected a device from 0 to {}, got {}",
                   devices() - 1, peer);
    check_argument(data.contiguous(), operation, "expected a contiguous tensor, got strides {} and {}",
                   data.token_stride, data.head_stride);
  }
  ThreadRequest& own_request(Request& request, const char* operation) const {
    auto* own = dynamic_cast<ThreadRequest*>(&request);
    check_argument(own != nullptr && own->own() == device_, operation,
                   "expected a request of device {}, got another's", device_);
    return *own;
  }

  std::shared_ptr<ThreadShared> shared_;
  int device_;
  DeviceTrace trace_;
};

}  // namespace

ThreadGroup::ThreadGroup(const ThreadGroupOptions& options) {
  check_argument(options.devices >= 1, "devices", "expected at least 1 device, got {}", options.devices);
  check_argument(options.timeout.count() > 0, "timeout", "expected more than 0 ms, got {} ms",
                 options.timeout.count());
  const int number = options.processes ? options.processes->size() : 1;
  shared_ = std::make_shared<ThreadShared>(options.devices * number, options.timeout);
  if (number > 1)
    shared_->link =
        std::make_unique<ProcessLink>(*shared_, options.processes, options.devices, options.overlap);
}

ThreadGroup::~ThreadGroup() = default;

int ThreadGroup::first_device() const { return shared_->link ? shared_->link->first_device() : 0; }

void ThreadGroup::progress() {
  if (shared_->link) shared_->link->progress_at_times();
}

void ThreadGroup::meet() {
  if (shared_->link) shared_->link->meet();
}

void ThreadGroup::leave() {
  if (!shared_->link) return;
  const bool all_left = shared_->link->leave();
  const std::lock_guard lock(shared_->mutex);
  shared_->check_alive();
  if (!all_left) throw CommunicationError("[communicator] another process did not come to the ring's end");
}

std::unique_ptr<Communicator> ThreadGroup::communicator(int device, const DeviceTrace* trace) {
  check_argument(
      device >= 0 && device < shared_->size() && (!shared_->link || shared_->link->is_local(device)),
      "communicator", "expected a device of this process, of {} in all, got {}", shared_->size(), device);
  return std::make_unique<ThreadCommunicator>(shared_, device, trace ? *trace : DeviceTrace(nullptr, device));
}

void ThreadGroup::cancel(int device, const std::string& reason) {
  const std::lock_guard lock(shared_->mutex);
  shared_->fail(device, reason, false);
}

void ThreadGroup::end(int device) {
  const std::lock_guard lock(shared_->mutex);
  shared_->at(device).ended = true;
  shared_->wake_all();
  if (shared_->link) shared_->link->ended(device);
}

std::string ThreadGroup::failure() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->failed_device < 0 ? "" : shared_->words();
}

int ThreadGroup::failed_device() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->failed_device;
}

}  // namespace rondo
