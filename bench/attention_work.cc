#include "bench/attention_work.h"

#include "bench/attention_device.h"
#include "bench/data.h"
#include "rondo/core/error.h"

namespace rondo::bench {

AttentionWork::AttentionWork(const AttentionCase& what)
    : case_(what), team_(what.ring), devices_(static_cast<std::size_t>(what.ring.devices)) {
  check_argument(what.ctx >= 1, "bench", "expected a sequence of at least 1 token, got {}", what.ctx);
  team_.run([this](Context& context, Communicator& communicator) {
    devices_[static_cast<std::size_t>(context.device)] =
        std::make_unique<AttentionDevice>(context, communicator, case_);
  });
  homes_.resize(static_cast<std::size_t>(what.ctx));
  for (std::size_t device = 0; device < devices_.size(); ++device) {
    const auto& places = devices_[device]->places();
    for (std::size_t local = 0; local < places.size(); ++local)
      homes_[static_cast<std::size_t>(places[local].global)] = {static_cast<int>(device),
                                                                static_cast<std::int64_t>(local)};
  }
}

AttentionWork::~AttentionWork() = default;

void AttentionWork::run(Pass pass, int repeats) {
  team_.run([&](Context& context, Communicator&) {
    AttentionDevice& device = *devices_[static_cast<std::size_t>(context.device)];
    for (int n = 0; n < repeats; ++n) {
      if (pass != Pass::backward) device.forward();
      if (pass != Pass::forward) device.backward();
    }
  });
}

std::vector<double> AttentionWork::rows(Part part, std::int64_t head,
                                        std::span<const std::int64_t> tokens) const {
  std::vector<double> values;
  for (const std::int64_t token : tokens) {
    const Home& home = homes_[static_cast<std::size_t>(token)];
    const Tensor& tensor = devices_[static_cast<std::size_t>(home.device)]->part(part);
    const std::vector<double> row =
        reference::to_doubles(tensor.slice({home.local, home.local + 1}).slice_heads({head, head + 1}));
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

std::vector<double> AttentionWork::lse(std::int64_t head, std::span<const std::int64_t> tokens) const {
  std::vector<double> values;
  for (const std::int64_t token : tokens) {
    const Home& home = homes_[static_cast<std::size_t>(token)];
    const AttentionDevice& device = *devices_[static_cast<std::size_t>(home.device)];
    values.push_back(device.lse_HT()[head * device.tokens() + home.local]);
  }
  return values;
}

}  // namespace rondo::bench
