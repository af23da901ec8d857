#include "rondo/train/optimizer.h"

#include <gtest/gtest.h>

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

TEST(Optimizer, EqualsTheReferenceOnEveryDevice) {
  const ParameterTable table(small_config());
  const auto total = static_cast<std::size_t>(table.total());
  for (const double clip : {0.0, 1.0, 1e6}) {
    const OptimizerOptions options{.weight_decay = 0.3f, .clip = clip};
    test::spawn(3, [&](Context& context, Communicator& communicator) {
      Optimizer optimizer(context, table, DType::f32, options);
      for (const ParameterInfo& info : table.infos()) fill(part_of(optimizer.parameters(), info), 1, 1);
      Expected expected{doubles(optimizer.parameters()), Doubles(total), Doubles(total)};
      for (std::int64_t number = 1; number <= 4; ++number) {
        Doubles sum(total);
        for (std::uint64_t device = 0; device < 3; ++device) {
          std::vector<float> one(total);
          for (const ParameterInfo& info : table.infos())
            fill(part_of(one, info), 100 * device + static_cast<std::uint64_t>(number), 0.1);
          for (std::size_t n = 0; n < total; ++n) sum[n] += static_cast<double>(one[n]);
          if (static_cast<int>(device) == context.device)
            std::copy(one.begin(), one.end(), optimizer.gradients().begin());
        }
        const double rate = 0.01 * static_cast<double>(number);
        expected.step(table, options, sum, number, rate);
        communicator.all_reduce_sum(optimizer.gradients());
        EXPECT_NEAR(optimizer.step(number, rate).gradient_norm, expected.norm, expected.norm * 1e-6);
      }
      // Four steps of a few roundings of values below 8; where a moment is near 0 the update is a quotient of
      // two rounded small numbers, of size learning rate.
      EXPECT_LE(reference::max_difference(doubles(optimizer.parameters()), expected.parameters), 4e-6);
      EXPECT_LE(reference::max_difference(doubles(optimizer.first_moment()), expected.first), 1e-7);
      EXPECT_LE(reference::max_difference(doubles(optimizer.second_moment()), expected.second), 1e-7);
    });
  }
}

TEST(Optimizer, ClipsTheNormOfTheWholeGradient) {
  const ParameterTable table(small_config());
  test::spawn(2, [&](Context& context, Communicator& communicator) {
    Optimizer optimizer(context, table, DType::f32, {.weight_decay = 0, .clip = 0.5});
    for (const ParameterInfo& info : table.infos()) fill(part_of(optimizer.gradients(), info), 5, 3);
    communicator.all_reduce_sum(optimizer.gradients());
    const double norm = optimizer.step(1, 0.1).gradient_norm;
    EXPECT_GT(norm, 100);
    // After the first step the first moment is (1 - beta1) times the clipped gradient.
    double moment = 0;
    for (const float m : optimizer.first_moment()) moment += static_cast<double>(m) * static_cast<double>(m);
    EXPECT_NEAR(std::sqrt(moment), 0.5 * (1 - static_cast<double>(0.9f)), 1e-7);
  });
}

TEST(Optimizer, DecaysMatricesAlone) {
  const ParameterTable table(small_config());
  test::spawn(1, [&](Context& context, Communicator&) {
    Optimizer optimizer(context, table, DType::f32, {.weight_decay = 0.5f});
    std::fill(optimizer.parameters().begin(), optimizer.parameters().end(), 2.0f);
    optimizer.step(1, 0.1);  // no gradient
    for (const ParameterInfo& info : table.infos()) {
      const bool norm = info.name.find("norm") != std::string::npos;
      for (const float value : part_of(optimizer.parameters(), info))
        ASSERT_FLOAT_EQ(value, norm ? 2.0f : 2.0f * (1 - 0.1f * 0.5f)) << info.name;
    }
  });
}

TEST(Optimizer, ComputeWeightsFollowTheMasterWeights) {
  const ParameterTable table(small_config());
  test::spawn(1, [&](Context& context, Communicator&) {
    Optimizer optimizer(context, table, DType::bf16, {});
    const auto check = [&] {
      const auto* weights = static_cast<const bfloat16*>(optimizer.compute_weights());
      for (std::int64_t n = 0; n < table.total(); ++n)
        ASSERT_EQ(weights[n].bits, to_bfloat16(optimizer.parameters()[static_cast<std::size_t>(n)]).bits);
    };
    initialise(table, small_config(), 3, optimizer.parameters());
    optimizer.parameters_changed();
    check();
    fill(optimizer.gradients(), 1, 1);
    optimizer.step(1, 0.1);
    check();
    EXPECT_GT(context.ledger.current(Entry::compute_weights), 0);
  });
}

TEST(Optimizer, NamesStepAndParameterOfAGradientThatIsNotFinite) {
  const ParameterTable table(small_config());
  const ParameterInfo& bad = *table.find("model.layers.1.mlp.up_proj.weight");
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    test::spawn(2, [&](Context& context, Communicator& communicator) {
      Optimizer optimizer(context, table, DType::f32, {});
      initialise(table, small_config(), 3, optimizer.parameters());
      const Doubles before = doubles(optimizer.parameters());
      if (context.device == 1) {
        part_of(optimizer.gradients(), bad)[5] = value;
        optimizer.gradients()[0] = value;  // the embedding comes last in backward
      }
      communicator.all_reduce_sum(optimizer.gradients());
      RONDO_EXPECT_ERROR(ArgumentError, optimizer.step(42, 0.1), "finite gradient at step 42",
                         "first in model.layers.1.mlp.up_proj.weight");
      EXPECT_EQ(doubles(optimizer.parameters()), before);
      for (const float m : optimizer.first_moment()) ASSERT_EQ(m, 0);
      optimizer.clear_gradients();
      EXPECT_EQ(optimizer.step(1, 0.1).gradient_norm, 0);
    });
  }
}

}  // namespace
}  // namespace rondo
