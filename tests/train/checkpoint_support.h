#pragma once
// Checkpoints of a few numbers, written and found by rings of any number of devices.

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "rondo/reference/convert.h"
#include "rondo/train/checkpoint.h"
#include "tests/support/spawn.h"
#include "tests/train/training_support.h"

namespace rondo::test {

/// Flat buffers with padding zero, as the optimizer has them.
struct Tensors {
  explicit Tensors(const ParameterTable& table, std::uint64_t seed = 0) {
    const auto total = static_cast<std::size_t>(table.total());
    for (std::vector<float>* flat : {&parameters, &first, &second}) {
      flat->assign(total, 0);
      if (seed == 0) continue;
      for (const ParameterInfo& info : table.infos()) {
        const auto values = reference::standard_normal(info.elements(), seed++);
        for (std::size_t n = 0; n < values.size(); ++n)
          (*flat)[static_cast<std::size_t>(info.offset) + n] = static_cast<float>(values[n]);
      }
    }
  }
  TrainingTensors view() { return {parameters, first, second}; }
  friend bool operator==(const Tensors&, const Tensors&) = default;
  std::vector<float> parameters, first, second;
};

inline TrainingState state_at(std::int64_t step) {
  return {step, 0xfedcba9876543210ull, {"a b.txt", "c"}, {"h\xc3\xa4lt"}, small_recipe(256, 100)};
}

/// save_checkpoint on a ring, every device giving its share; `own` devices in each process.
inline std::filesystem::path save_on(int devices, const CheckpointPlace& place, const ModelConfig& config,
                                     const ParameterTable& table, const TrainingState& state,
                                     Tensors& tensors, int own = 0) {
  std::filesystem::path path;
  spawn_divided(devices, own > 0 ? own : devices, [&](Context&, Communicator& communicator) {
    const RingPlace ring{communicator.devices(), communicator.device()};
    const auto written = save_checkpoint(communicator, place, config, table, state,
                                         checkpoint_source(table, tensors.view(), ring));
    if (ring.device == 0) path = written;
  });
  return path;
}

inline FoundCheckpoint newest_on(int devices, const std::filesystem::path& path) {
  FoundCheckpoint found;
  spawn(devices, [&](Context&, Communicator& communicator) {
    const FoundCheckpoint same = newest_checkpoint(communicator, path);
    if (communicator.device() == 0) found = same;
  });
  return found;
}

inline Tensors load(const std::filesystem::path& checkpoint, const ParameterTable& table) {
  Tensors tensors(table);
  SavedTensors(checkpoint, table).read({0, table.total()}, tensors.view());
  return tensors;
}

/// Four tensors of a few numbers: quick to write a thousand times.
inline ModelConfig tiny_config() {
  ModelConfig config = small_config();
  config.vocabulary = 16, config.width = 8, config.ffn = 8, config.layers = 1;
  config.q_heads = config.kv_heads = 1, config.head_dim = 8, config.bos = -1, config.eos = {};
  return config;
}

}  // namespace rondo::test
