#pragma once
// Processes that are threads of the test: the protocol between processes without a launcher, under sanitizers
// too.

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "rondo/comm/processes.h"

namespace rondo::test {

/// What is on its way between the processes.
class MemoryNetwork {
 public:
  struct Envelope {
    int from = 0;
    Parcel parcel;
    bool taken = false;
  };
  using EnvelopePtr = std::shared_ptr<Envelope>;

  /// `one_host`: its processes share memory.
  explicit MemoryNetwork(bool one_host = false) : one_host_(one_host) {}

  HostWindow window_of(int process) {
    if (!one_host_) return {};
    const std::lock_guard lock(mutex_);
    auto& memory = windows_[process];
    if (!memory) memory = std::make_unique<Window>();
    return HostWindow(memory->bytes);
  }

  EnvelopePtr put(int from, int to, int channel, Parcel parcel) {
    const std::lock_guard lock(mutex_);
    auto envelope = std::make_shared<Envelope>(Envelope{from, std::move(parcel)});
    boxes_[{to, channel}].push_back(envelope);
    return envelope;
  }
  bool take(int from, int to, int channel, const Parcel& into) {
    const std::lock_guard lock(mutex_);
    auto& box = boxes_[{to, channel}];
    const auto found = std::find_if(box.begin(), box.end(), [&](const EnvelopePtr& envelope) {
      return from == Processes::kAny || envelope->from == from;
    });
    if (found == box.end()) return false;
    std::memcpy(into.data.get(), (*found)->parcel.data.get(), std::min(into.bytes, (*found)->parcel.bytes));
    (*found)->taken = true;
    bytes_taken_ += (*found)->parcel.bytes;
    box.erase(found);
    return true;
  }
  std::size_t bytes_taken() {
    const std::lock_guard lock(mutex_);
    return bytes_taken_;
  }
  bool taken(const EnvelopePtr& envelope) {
    const std::lock_guard lock(mutex_);
    return envelope->taken;
  }

 private:
  struct alignas(64) Window {
    std::byte bytes[HostWindow::kBytes] = {};
  };
  const bool one_host_;
  std::mutex mutex_;
  std::size_t bytes_taken_ = 0;
  std::map<int, std::unique_ptr<Window>> windows_;               // by process
  std::map<std::pair<int, int>, std::list<EnvelopePtr>> boxes_;  // by receiver and channel
};

class MemoryProcesses final : public Processes {
 public:
  MemoryProcesses(MemoryNetwork& network, int rank, int size) : network_(network), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int on_this_host() const override { return size_; }
  HostWindow window_of(int process) const override { return network_.window_of(process); }
  TransferPtr send(int to, int channel, Parcel parcel) override {
    // Short ones are buffered, as MPI does; long ones are done when they were received.
    const bool buffered = parcel.bytes <= 4096;
    if (buffered) {
      const Parcel copy{std::make_shared<std::byte[]>(parcel.bytes), parcel.bytes};
      std::memcpy(copy.data.get(), parcel.data.get(), parcel.bytes);
      parcel = copy;
    }
    return std::make_unique<Sending>(network_, network_.put(rank_, to, channel, std::move(parcel)), buffered);
  }
  TransferPtr receive(int from, int channel, Parcel into) override {
    return std::make_unique<Receiving>(*this, from, channel, std::move(into));
  }

 private:
  class Sending final : public Transfer {
   public:
    Sending(MemoryNetwork& network, MemoryNetwork::EnvelopePtr envelope, bool buffered)
        : network_(network), envelope_(std::move(envelope)), buffered_(buffered) {}
    bool done() override { return buffered_ || network_.taken(envelope_); }

   private:
    MemoryNetwork& network_;
    MemoryNetwork::EnvelopePtr envelope_;
    bool buffered_;
  };
  class Receiving final : public Transfer {
   public:
    Receiving(MemoryProcesses& own, int from, int channel, Parcel into)
        : own_(own), from_(from), channel_(channel), into_(std::move(into)) {}
    bool done() override {
      done_ = done_ || own_.network_.take(from_, own_.rank_, channel_, into_);
      return done_;
    }

   private:
    MemoryProcesses& own_;
    int from_, channel_;
    Parcel into_;
    bool done_ = false;
  };

  MemoryNetwork& network_;
  int rank_, size_;
};

}  // namespace rondo::test
