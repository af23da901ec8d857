#include "rondo/comm/message_collectives.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace rondo {

namespace {

constexpr Tag kTag = std::numeric_limits<Tag>::min();
constexpr std::int64_t kBlockBytes = std::int64_t{256} << 10;  // of sums, of one device at a time

/// Messages that are posted together and then waited for.
class Round {
 public:
  explicit Round(Communicator& own) : own_(own) {}
  void send(int to, std::span<const std::byte> data) {
    each_half(data.size(), [&](std::size_t begin, std::int64_t size, Tag tag) {
      requests_.push_back(
          own_.send(to, tag, view(static_cast<const void*>(data.data() + begin), DType::bf16, size, 1, 1)));
    });
  }
  void receive(int from, std::span<std::byte> into) {
    each_half(into.size(), [&](std::size_t begin, std::int64_t size, Tag tag) {
      requests_.push_back(
          own_.receive(from, tag, view(static_cast<void*>(into.data() + begin), DType::bf16, size, 1, 1)));
    });
  }
  void wait(const char* doing) {
    for (const RequestPtr& request : requests_) own_.wait(*request, doing);
    requests_.clear();
  }

 private:
  /// Tensors have no elements of one byte: an odd number of bytes goes as an even one and the last two, one
  /// of which then goes twice.
  template <class Use>
  static void each_half(std::size_t bytes, const Use& use) {
    if (bytes >= 2) use(0, static_cast<std::int64_t>(bytes / 2), kTag);
    if (bytes >= 2 && bytes % 2 != 0) use(bytes - 2, 1, kTag + 1);
  }

  Communicator& own_;
  std::vector<RequestPtr> requests_;
};

template <class T>
void sums(Communicator& own, std::span<T> values) {
  constexpr const char* kDoing = "all_reduce_sum";
  const int devices = own.devices(), me = own.device();
  const auto elements = static_cast<std::int64_t>(values.size());
  const std::int64_t longest = (elements + devices - 1) / devices;
  const std::int64_t block =
      std::min<std::int64_t>(longest, kBlockBytes / static_cast<std::int64_t>(sizeof(T)));
  const auto part = [&](int device, std::int64_t begin) {
    const Range all = owned_part(elements, devices, device);
    const std::int64_t first = std::min(all.end, all.begin + begin);
    return values.subspan(static_cast<std::size_t>(first),
                          static_cast<std::size_t>(std::min(all.end, first + block) - first));
  };
  std::vector<T> terms(static_cast<std::size_t>(block * devices));
  Round round(own);
  for (std::int64_t begin = 0; begin < longest; begin += block) {
    const std::span<T> mine = part(me, begin);
    const auto term = [&](int device) {
      return std::span(terms).subspan(static_cast<std::size_t>(device * block), mine.size());
    };
    for (int d = 0; d < devices; ++d) {
      if (d == me) continue;
      round.receive(d, std::as_writable_bytes(term(d)));
      round.send(d, std::as_bytes(part(d, begin)));
    }
    round.wait(kDoing);
    std::copy(mine.begin(), mine.end(), term(me).begin());
    for (int d = 0; d < devices; ++d)
      for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = d == 0 ? term(0)[i] : mine[i] + term(d)[i];
    for (int d = 0; d < devices; ++d) {
      if (d == me) continue;
      round.receive(d, std::as_writable_bytes(part(d, begin)));
      round.send(d, std::as_bytes(mine));
    }
    round.wait(kDoing);
  }
}

}  // namespace

void send_sums(Communicator& own, std::span<float> values) { sums(own, values); }
void send_sums(Communicator& own, std::span<double> values) { sums(own, values); }

void send_parts(Communicator& comm, std::span<const std::byte> own, std::span<std::byte> all) {
  const auto place = [&](int device) {
    return all.subspan(own.size() * static_cast<std::size_t>(device), own.size());
  };
  Round round(comm);
  for (int d = 0; d < comm.devices(); ++d) {
    if (d == comm.device()) continue;
    round.receive(d, place(d));
    round.send(d, own);
  }
  const std::span<std::byte> mine = place(comm.device());
  if (mine.data() != own.data()) std::memcpy(mine.data(), own.data(), own.size());
  round.wait("all_gather");
}

void send_from(Communicator& own, int root, std::span<std::byte> data) {
  Round round(own);
  if (own.device() != root) round.receive(root, data);
  for (int d = 0; own.device() == root && d < own.devices(); ++d)
    if (d != root) round.send(d, data);
  round.wait("broadcast");
}

}  // namespace rondo
