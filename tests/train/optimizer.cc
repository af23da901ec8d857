#include "rondo/train/optimizer.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "rondo/reference/convert.h"
#include "rondo/reference/layers.h"
#include "tests/support/spawn.h"
#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::small_config;
using Doubles = std::vector<double>;

Doubles doubles(std::span<const float> values) { return {values.begin(), values.end()}; }

void fill(std::span<float> values, std::uint64_t seed, double scale) {
  const Doubles normal = reference::standard_normal(static_cast<std::int64_t>(values.size()), seed);
  for (std::size_t n = 0; n < values.size(); ++n) values[n] = static_cast<float>(scale * normal[n]);
}

std::span<float> part_of(std::span<float> all, const ParameterInfo& info) {
  return all.subspan(static_cast<std::size_t>(info.offset), static_cast<std::size_t>(info.elements()));
}

/// The reference's AdamW on all parameters in double, from the sum of all devices' gradients.
struct Expected {
  Doubles parameters, first, second;
  double norm = 0;

  void step(const ParameterTable& table, const OptimizerOptions& options, const Doubles& gradients,
            std::int64_t number, double learning_rate) {
    norm = 0;
    for (const double g : gradients) norm += g * g;
    norm = std::sqrt(norm);
    for (const ParameterInfo& info : table.infos()) {
      const auto cut = [&](const Doubles& all) {
        return Doubles(all.begin() + info.offset, all.begin() + info.offset + info.elements());
      };
      Doubles p = cut(parameters), m = cut(first), v = cut(second);
      reference::adamw({.learning_rate = static_cast<float>(learning_rate),
                        .beta1 = options.beta1,
                        .beta2 = options.beta2,
                        .epsilon = options.epsilon,
                        .weight_decay = info.is_norm() ? 0 : options.weight_decay,
                        .gradient_scale = options.clip > 0 && norm > options.clip ? options.clip / norm : 1,
                        .step = number},
                       cut(gradients), p, m, v);
      std::copy(p.begin(), p.end(), parameters.begin() + info.offset);
      std::copy(m.begin(), m.end(), first.begin() + info.offset);
      std::copy(v.begin(), v.end(), second.begin() + info.offset);
    }
  }
};

constexpr std::array kShards{Shard::none, Shard::optimizer, Shard::parameters};

/// One device's state of a small model, and what tests do with it.
struct State {
  State(Context& context, Communicator& communicator, DType storage, Shard shard,
        const OptimizerOptions& options)
      : weights(context, communicator, table, storage, shard),
        gradients(context, communicator, table, shard),
        optimizer(context, communicator, table, weights, gradients, options) {}

  void set(std::span<const float> all) {
    weights.begin_change();
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      copy(all, weights.owned().flat(bucket), weights.master(bucket).data());
      weights.changed(bucket);
    }
    weights.end_change();
  }
  /// As a backward pass leaves them; then their sums.
  void sum(std::span<const float> own) {
    gradients.clear();
    const GradientWriter writer = gradients.writer(true);
    for (std::size_t bucket = buckets.size(); bucket-- > 0;) {
      const Placed<void*> place = writer.get(bucket, buckets[bucket]);
      copy(own, buckets[bucket], static_cast<float*>(place.data) + (buckets[bucket].begin - place.origin));
      writer.done(bucket);
    }
    gradients.finish();
  }
  /// Of what this device owns: values(bucket) against the same elements of `expected`.
  template <class Values>
  double difference(const Doubles& expected, const Values& values) {
    double most = 0;
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      const Range at = weights.owned().flat(bucket);
      const Doubles part(expected.begin() + at.begin, expected.begin() + at.end);
      most = std::max(most, reference::max_difference(doubles(values(bucket)), part));
    }
    return most;
  }
  double weight_difference(const Doubles& expected) {
    return difference(expected, [&](std::size_t bucket) { return weights.master(bucket); });
  }
  double moment_difference(Moment moment, const Doubles& expected) {
    return difference(expected, [&](std::size_t bucket) { return optimizer.moment(moment, bucket); });
  }

  static void copy(std::span<const float> all, const Range& part, float* to) {
    std::copy(all.begin() + part.begin, all.begin() + part.end, to);
  }

  ParameterTable table{small_config()};
  std::vector<Range> buckets = table.buckets();
  WeightStore weights;
  GradientStore gradients;
  Optimizer optimizer;
};

std::vector<float> filled(const ParameterTable& table, std::uint64_t seed, double scale) {
  std::vector<float> all(static_cast<std::size_t>(table.total()));
  for (const ParameterInfo& info : table.infos()) fill(part_of(all, info), seed, scale);
  return all;
}

void expect_equals_reference(Context& context, Communicator& communicator, Shard shard, double clip) {
  const OptimizerOptions options{.weight_decay = 0.3f, .clip = clip};
  State state(context, communicator, DType::f32, shard, options);
  const auto total = static_cast<std::size_t>(state.table.total());
  const std::vector<float> start = filled(state.table, 1, 1);
  state.set(start);
  Expected expected{doubles(start), Doubles(total), Doubles(total)};
  for (std::int64_t number = 1; number <= 4; ++number) {
    Doubles sum(total);
    for (int device = 0; device < communicator.devices(); ++device) {
      const auto seed = static_cast<std::uint64_t>(100 * device + number);
      const std::vector<float> one = filled(state.table, seed, 0.1);
      for (std::size_t n = 0; n < total; ++n) sum[n] += static_cast<double>(one[n]);
    }
    const double rate = 0.01 * static_cast<double>(number);
    expected.step(state.table, options, sum, number, rate);
    state.sum(filled(state.table, static_cast<std::uint64_t>(100 * context.device + number), 0.1));
    EXPECT_NEAR(state.optimizer.step(number, rate).gradient_norm, expected.norm, expected.norm * 1e-6);
  }
  // Four steps of a few roundings of values below 8; where a moment is near 0 the update is a quotient of two
  // rounded small numbers, of size learning rate.
  EXPECT_LE(state.weight_difference(expected.parameters), 4e-6) << name_of(shard);
  EXPECT_LE(state.moment_difference(Moment::first, expected.first), 1e-7) << name_of(shard);
  EXPECT_LE(state.moment_difference(Moment::second, expected.second), 1e-7) << name_of(shard);
}

TEST(Optimizer, EqualsTheReferenceOnEveryDevice) {
  for (const Shard shard : kShards)
    for (const double clip : {0.0, 1.0, 1e6})
      for (const auto& [devices, own] : {std::pair(1, 1), {3, 3}, {4, 2}})
        test::spawn_divided(devices, own, [&](Context& context, Communicator& communicator) {
          expect_equals_reference(context, communicator, shard, clip);
        });
}

TEST(Optimizer, ClipsTheNormOfTheWholeGradient) {
  for (const Shard shard : kShards)
    test::spawn(2, [&](Context& context, Communicator& communicator) {
      State state(context, communicator, DType::f32, shard, {.weight_decay = 0, .clip = 0.5});
      state.sum(filled(state.table, 5, 3));
      const double norm = state.optimizer.step(1, 0.1).gradient_norm;
      EXPECT_GT(norm, 100);
      // After the first step the first moment is (1 - beta1) times the clipped gradient.
      double moment = 0;
      for (std::size_t bucket = 0; bucket < state.buckets.size(); ++bucket)
        for (const double m : doubles(state.optimizer.moment(Moment::first, bucket))) moment += m * m;
      if (shard != Shard::none) communicator.all_reduce_sum(std::span(&moment, 1));
      EXPECT_NEAR(std::sqrt(moment), 0.5 * (1 - static_cast<double>(0.9f)), 1e-7);
    });
}

TEST(Optimizer, DecaysMatricesAlone) {
  test::spawn(1, [&](Context& context, Communicator& communicator) {
    State state(context, communicator, DType::f32, Shard::none, {.weight_decay = 0.5f});
    state.set(std::vector<float>(static_cast<std::size_t>(state.table.total()), 2.0f));
    state.sum(std::vector<float>(static_cast<std::size_t>(state.table.total())));
    state.optimizer.step(1, 0.1);
    for (const ParameterInfo& info : state.table.infos()) {
      const bool norm = info.name.find("norm") != std::string::npos;
      for (const float value : part_of(state.weights.flat(), info))
        ASSERT_FLOAT_EQ(value, norm ? 2.0f : 2.0f * (1 - 0.1f * 0.5f)) << info.name;
    }
  });
}

/// What passes read of the embedding, of every layer and of the head, on every device.
TEST(Optimizer, PassesReadTheMasterWeightsOfAllDevices) {
  const auto check = [](State& state, DType storage, const std::vector<float>& all) {
    const WeightReader reader = state.weights.reader();
    const std::size_t last = state.buckets.size() - 1;
    for (std::size_t turn = 0; turn < 2 * last; ++turn) {
      const std::size_t bucket = turn <= last ? turn : 2 * last - turn;
      const std::size_t next = turn < last ? turn + 1 : bucket - 1;
      const Range range = state.buckets[bucket];
      const Placed<const void*> place = reader.get(bucket, range, next);
      for (std::int64_t n = range.begin; n < range.end; ++n) {
        const float master = all[static_cast<std::size_t>(n)];
        const std::int64_t at = n - place.origin;
        if (storage == DType::f32)
          ASSERT_EQ(static_cast<const float*>(place.data)[at], master) << bucket;
        else
          ASSERT_EQ(static_cast<const bfloat16*>(place.data)[at].bits, to_bfloat16(master).bits) << bucket;
      }
    }
    state.weights.end_passes();
  };
  for (const Shard shard : kShards)
    for (const DType storage : {DType::f32, DType::bf16})
      for (const auto& [devices, own] : {std::pair(1, 1), {3, 3}, {4, 2}})
        test::spawn_divided(devices, own, [&](Context& context, Communicator& communicator) {
          State state(context, communicator, storage, shard, {});
          const std::vector<float> start = filled(state.table, 3, 1);
          state.set(start);
          check(state, storage, start);
          state.sum(filled(state.table, 4, 1));
          state.optimizer.step(1, 0.1);
          std::vector<float> updated;
          for (std::size_t bucket = 0; bucket < state.buckets.size(); ++bucket) {
            const auto values = state.weights.gather_master(bucket, state.gradients.idle(bucket));
            updated.insert(updated.end(), values.begin(), values.end());
          }
          EXPECT_NE(updated, start);
          check(state, storage, updated);
        });
}

TEST(Optimizer, NamesStepAndParameterOfAGradientThatIsNotFinite) {
  const ParameterTable table(small_config());
  const ParameterInfo& bad = *table.find("model.layers.1.mlp.up_proj.weight");
  for (const Shard shard : kShards)
    for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")})
      test::spawn(2, [&](Context& context, Communicator& communicator) {
        State state(context, communicator, DType::f32, shard, {});
        const std::vector<float> start = filled(table, 3, 1);
        state.set(start);
        std::vector<float> own(static_cast<std::size_t>(table.total()));
        if (context.device == 1) {
          part_of(own, bad)[5] = value;
          own[0] = value;  // the embedding comes last in backward
        }
        state.sum(own);
        RONDO_EXPECT_ERROR(ArgumentError, state.optimizer.step(42, 0.1), "finite gradient at step 42",
                           "first in model.layers.1.mlp.up_proj.weight");
        EXPECT_EQ(state.weight_difference(doubles(start)), 0);
        EXPECT_EQ(state.moment_difference(Moment::first, Doubles(own.size())), 0);
        state.sum(std::vector<float>(own.size()));
        EXPECT_EQ(state.optimizer.step(1, 0.1).gradient_norm, 0);
      });
}

}  // namespace
}  // namespace rondo
