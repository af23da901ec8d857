#pragma once
// A small decoder with its reference, and runs of it over a ring.

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "rondo/comm/device_group.h"
#include "rondo/model/rotary.h"
#include "rondo/model/transformer.h"
#include "rondo/reference/convert.h"
#include "rondo/reference/llama.h"

namespace rondo::transformer_test {

inline ModelConfig small_config() {
  ModelConfig config;
  config.vocabulary = 19;
  config.width = 24;
  config.ffn = 40;
  config.layers = 2;
  config.q_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 6;
  config.rms_epsilon = 1e-5f;
  return config;
}

inline reference::LlamaConfig reference_config(const ModelConfig& c) {
  return {.vocabulary = c.vocabulary,
          .width = c.width,
          .ffn = c.ffn,
          .layers = c.layers,
          .q_heads = c.q_heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .epsilon = c.rms_epsilon,
          .frequencies = rotary_frequencies(c).inverse,
          .softcap = c.attention_softcap,
          .tied_embedding = c.tied_embedding,
          .window = c.sliding_window,
          .first_k = c.first_k};
}

struct Case {
  ModelConfig config = small_config();
  std::int64_t tokens = 37;
  std::vector<std::int64_t> document_starts;
  std::vector<std::int32_t> ids, labels;
  reference::Parameters parameters;
};

inline Case make_case(const ModelConfig& config, std::vector<std::int64_t> document_starts = {},
                      DType dtype = DType::f32) {
  Case test{.config = config, .document_starts = std::move(document_starts)};
  for (std::int64_t t = 0; t < test.tokens; ++t)
    test.ids.push_back(
        static_cast<std::int32_t>(philox4x32({static_cast<std::uint32_t>(t), 0, 0, 0}, {7, 7})[0] %
                                  static_cast<std::uint32_t>(config.vocabulary)));
  test.labels = reference::next_token_labels(test.ids, test.document_starts);
  test.parameters = reference::random_llama_parameters(reference_config(config), 11);
  for (auto& [name, values] : test.parameters) values = reference::rounded(values, dtype);
  return test;
}

struct ModelRun {
  int devices = 1, threads = 1;
  Layout layout = Layout::zigzag;
  TransformerOptions options{.block_tokens = 8};
};

struct Outcome {
  double loss = 0;
  std::vector<float> gradients;  // flat, summed over the devices
  std::vector<double> losses;    // per token, in global order
};

inline Outcome run_model(const Case& test, const ModelRun& run) {
  const ParameterTable table(test.config);
  Outcome outcome;
  outcome.losses.resize(test.ids.size());
  std::mutex mutex;
  run_ring({.devices = run.devices, .threads = run.threads, .timeout = std::chrono::seconds(120)},
           [&](Context& context, Communicator& communicator) {
             const DType dtype = run.options.dtype;
             const Buffer weights =
                 context.arena.allocate(Entry::parameters, table.total() * size_of(dtype), "test weights");
             const Buffer gradients =
                 context.arena.allocate(Entry::gradients, table.total() * 4, "test gradients");
             for (const ParameterInfo& info : table.infos())
               reference::from_doubles(test.parameters.at(info.name),
                                       parameter_view(info, Placed<void*>{weights.data()}, dtype));
             Transformer model(context, communicator, test.config, table, run.options);
             model.prepare({.tokens = test.tokens,
                            .devices = run.devices,
                            .layout = run.layout,
                            .document_starts = test.document_starts},
                           true);
             std::vector<std::int32_t> ids, labels;
             for (const TokenPlace& place : model.places()) {
               ids.push_back(test.ids[static_cast<std::size_t>(place.global)]);
               labels.push_back(test.labels[static_cast<std::size_t>(place.global)]);
             }
             double loss[1] = {model.forward_backward({.weights = weights.data(),
                                                       .gradients = gradients.as<float>(),
                                                       .ids = ids,
                                                       .labels = labels,
                                                       .gradient_scale = 0.25f,
                                                       .dropout_seed = 3,
                                                       .optimizer_step = 2})};
             const std::span<float> flat(gradients.as<float>(), static_cast<std::size_t>(table.total()));
             communicator.all_reduce_sum(flat);
             communicator.all_reduce_sum(std::span<double>(loss));
             std::vector<float> losses(ids.size());
             model.losses(weights.data(), ids, labels, losses);
             const std::lock_guard lock(mutex);
             outcome.loss = loss[0];
             outcome.gradients.assign(flat.begin(), flat.end());
             for (std::size_t n = 0; n < losses.size(); ++n)
               outcome.losses[static_cast<std::size_t>(model.places()[n].global)] = losses[n];
           });
  return outcome;
}

/// The largest error of a parameter's gradient over the largest gradient of that parameter.
inline double worst_gradient_error(const Case& test, const Outcome& outcome,
                                   const reference::Parameters& expected) {
  const ParameterTable table(test.config);
  double worst = 0;
  for (const ParameterInfo& info : table.infos()) {
    const std::vector<double>& exact = expected.at(info.name);
    double largest = 0, error = 0;
    for (std::size_t n = 0; n < exact.size(); ++n) {
      largest = std::max(largest, std::abs(exact[n]));
      error =
          std::max(error, std::abs(exact[n] - outcome.gradients[static_cast<std::size_t>(info.offset) + n]));
    }
    worst = std::max(worst, error / largest);
  }
  return worst;
}

}  // namespace rondo::transformer_test
