// The planner's bytes against the ledgers of evaluation and generation.

#include <gtest/gtest.h>

#include <numeric>

#include "rondo/comm/device_group.h"
#include "rondo/infer/device_weights.h"
#include "rondo/infer/generator.h"
#include "rondo/plan/memory.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

ModelConfig small_model() {
  return {
      .vocabulary = 300, .width = 48, .ffn = 96, .layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 12};
}

struct InferenceCase {
  Purpose purpose = Purpose::evaluate;
  DType dtype = DType::f32;
  int devices = 1;
  std::int64_t segment_tokens = 0;
  bool spills = false;
};

/// Peaks of every device: weights loaded from a folder, then one pass over `tokens`.
std::vector<EntryBytes> ledgers(const InferenceCase& run, std::int64_t tokens,
                                std::vector<std::int64_t>& totals) {
  const ModelConfig config = small_model();
  const ParameterTable table(config);
  const test::TemporaryFolder folder;
  std::vector<float> flat(static_cast<std::size_t>(table.total()));
  initialise(table, config, 3, flat);
  save_model_files(folder.path(), config, table, flat, DType::f32);
  const LoadedModel model = load_model_folder(folder.path());
  std::vector<EntryBytes> peaks(static_cast<std::size_t>(run.devices));
  totals.resize(peaks.size());
  run_ring({.devices = run.devices}, [&](Context& context, Communicator& communicator) {
    const DeviceWeights weights(context, model, run.dtype);
    const TransformerOptions options{.dtype = run.dtype,
                                     .block_tokens = 64,
                                     .segment_tokens = run.segment_tokens,
                                     .spill = run.spills ? folder.path() : ""};
    if (run.purpose == Purpose::generate) {
      Generator generator(context, communicator, config, table, weights.data(),
                          {.capacity = tokens, .layout = Layout::zigzag, .model = options});
      const std::vector<std::int32_t> prompt(static_cast<std::size_t>(tokens - 1), 7);
      generator.prefill(prompt);
      generator.decode(9);
    } else {
      Transformer transformer(context, communicator, config, table, options);
      transformer.prepare({.tokens = tokens, .devices = run.devices, .layout = Layout::zigzag}, false);
      const auto [ids, labels, losses] = transformer.token_memory();
      std::fill(ids.begin(), ids.end(), 7);
      std::fill(labels.begin(), labels.end(), 8);
      transformer.losses(weights.data(), ids, labels, losses);
    }
    const auto me = static_cast<std::size_t>(context.device);
    for (std::size_t entry = 0; entry < peaks[me].size(); ++entry)
      peaks[me][entry] = context.ledger.peak(static_cast<Entry>(entry));
    totals[me] = context.ledger.peak_total();
  });
  return peaks;
}

TEST(PlannedMemory, OfInferenceIsThatOfTheLedger) {
  constexpr std::int64_t kTokens = 2000;
  const auto scratch = static_cast<std::size_t>(Entry::library_scratch);
  struct Way {
    int devices = 1;
    std::int64_t segment_tokens = 0;
    bool spills = false;
  };
  for (const Purpose purpose : {Purpose::evaluate, Purpose::generate})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto [devices, segment_tokens, spills] :
           {Way{1}, Way{2}, Way{5}, Way{1, 512, false}, Way{1, 512, true}}) {
        SCOPED_TRACE(fmt::format("{}, {}, {} devices, segments of {}", name_of(purpose), name_of(dtype),
                                 devices, segment_tokens));
        std::vector<std::int64_t> totals;
        const std::vector<EntryBytes> peaks = ledgers({.purpose = purpose,
                                                       .dtype = dtype,
                                                       .devices = devices,
                                                       .segment_tokens = segment_tokens,
                                                       .spills = spills},
                                                      kTokens, totals);
        const MemoryModel model({.config = small_model(),
                                 .purpose = purpose,
                                 .dtype = dtype,
                                 .block_tokens = 64,
                                 .devices = devices,
                                 .segment_tokens = segment_tokens,
                                 .spills = spills,
                                 .answer_tokens = purpose == Purpose::generate ? 1 : 0});
        const EntryBytes planned = model.entries(kTokens);
        for (std::size_t entry = 0; entry < planned.size(); ++entry) {
          if (entry == scratch) continue;
          const auto measured = static_cast<double>(peaks[0][entry]);
          EXPECT_NEAR(static_cast<double>(planned[entry]), measured, 0.01 * measured + 4096)
              << name_of(static_cast<Entry>(entry));
        }
        const auto most = static_cast<double>(totals[0] - peaks[0][scratch]);
        EXPECT_NEAR(static_cast<double>(model.peak(planned)), most, 0.03 * most);
      }
}

}  // namespace
}  // namespace rondo
