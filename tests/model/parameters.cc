// Where parameters lie, how many there are, what new ones look like, and the operations they cost.

#include "rondo/model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {
namespace {

ModelConfig small(bool tied = false) {  // extents that leave padding; heads * head_dim differs from the width
  return {.vocabulary = 37,
          .width = 10,
          .ffn = 14,
          .layers = 3,
          .q_heads = 4,
          .kv_heads = 2,
          .head_dim = 6,
          .tied_embedding = tied};
}

TEST(Parameters, CountsOfReleasedModels) {
  const ModelConfig tiny{.vocabulary = 32000,
                         .width = 2048,
                         .ffn = 5632,
                         .layers = 22,
                         .q_heads = 32,
                         .kv_heads = 4,
                         .head_dim = 64};
  EXPECT_EQ(ParameterTable(tiny).parameters(), 1'100'048'384);
  const ModelConfig llama{.vocabulary = 128256,
                          .width = 4096,
                          .ffn = 14336,
                          .layers = 32,
                          .q_heads = 32,
                          .kv_heads = 8,
                          .head_dim = 128};
  EXPECT_EQ(ParameterTable(llama).parameters(), 8'030'261'248);
  EXPECT_EQ(ParameterTable(llama).total(), 8'030'261'248);  // nothing to pad
}

TEST(Parameters, BucketsAndTheirPartsCoverTheBuffer) {
  for (const bool tied : {false, true}) {
    const ParameterTable table(small(tied));
    const std::vector<Range> buckets = table.buckets();
    ASSERT_EQ(buckets.size(), 3u + 2);
    EXPECT_EQ(buckets[0].begin, 0);
    EXPECT_EQ(buckets[1].begin, table.layer(0).front().offset);
    EXPECT_EQ(buckets[4], (Range{table.final_norm().offset, table.total()}));
    for (std::size_t n = 1; n < buckets.size(); ++n) EXPECT_EQ(buckets[n].begin, buckets[n - 1].end);
    for (const Range& bucket : buckets)
      for (const int devices : {1, 2, 3, 7, 100}) {
        std::int64_t at = bucket.begin;
        for (int device = 0; device < devices; ++device) {
          const Range part = owned_part(bucket, devices, device);
          EXPECT_EQ(part.begin, at);
          EXPECT_EQ(part.begin % ParameterTable::kAlignment, 0);
          EXPECT_LE(part.size(), bucket.size() / devices + ParameterTable::kAlignment);
          at = part.end;
        }
        EXPECT_EQ(at, bucket.end);
      }
  }
}

TEST(Parameters, GroupsAreRunsOfNearlyEqualSize) {
  ModelConfig config = small();
  config.layers = 20;
  const ParameterTable table(config);
  const auto parameters = static_cast<std::int64_t>(table.infos().size());
  for (const int devices : {1, 2, 3, 5, 8, 182, 183, 184, 1000}) {
    const std::vector<Range> groups = parameter_groups(table, devices);
    EXPECT_EQ(static_cast<std::int64_t>(groups.size()), std::min<std::int64_t>(devices, parameters));
    std::int64_t at = 0;
    for (const Range& group : groups) {
      EXPECT_EQ(group.begin, at);
      EXPECT_FALSE(group.empty());
      std::int64_t elements = 0;
      for (; at < group.end; ++at) elements += table.infos()[static_cast<std::size_t>(at)].elements();
      if (devices <= 8) {
        EXPECT_NEAR(static_cast<double>(elements), table.parameters() / devices, 400) << devices;
      }
    }
    EXPECT_EQ(at, parameters);
  }
  EXPECT_THROW(parameter_groups(table, 0), ArgumentError);
}

TEST(Parameters, OrderNamesAndShapes) {
  const ParameterTable table(small());
  EXPECT_EQ(table.infos().size(), 3u + 9 * 3);
  EXPECT_EQ(table.embedding().name, "model.embed_tokens.weight");
  EXPECT_EQ(table.final_norm().name, "model.norm.weight");
  EXPECT_EQ(table.lm_head().name, "lm_head.weight");
  const char* names[] = {"input_layernorm",  "self_attn.q_proj", "self_attn.k_proj",
                         "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  const std::pair<int, int> shapes[] = {{1, 10}, {24, 10}, {12, 10}, {12, 10}, {10, 24},
                                        {1, 10}, {14, 10}, {14, 10}, {10, 14}};
  for (std::int64_t layer = 0; layer < 3; ++layer)
    for (std::size_t i = 0; i < 9; ++i) {
      const ParameterInfo& info = table.layer(layer)[i];
      EXPECT_EQ(info.name, fmt::format("model.layers.{}.{}.weight", layer, names[i]));
      EXPECT_EQ(info.rows, shapes[i].first) << info.name;
      EXPECT_EQ(info.columns, shapes[i].second) << info.name;
      EXPECT_EQ(info.decays, i != 0 && i != 5) << info.name;
    }
}

TEST(Parameters, LiePackedAndAligned) {
  for (const bool tied : {false, true}) {
    const ParameterTable table(small(tied));
    std::int64_t next = 0, sum = 0;
    for (const ParameterInfo& info : table.infos()) {
      EXPECT_EQ(info.offset, next) << info.name;
      EXPECT_EQ(info.offset % ParameterTable::kAlignment, 0);
      next = info.offset + (info.elements() + 15) / 16 * 16;
      sum += info.elements();
    }
    EXPECT_EQ(table.total(), next);
    EXPECT_EQ(table.parameters(), sum);
  }
}

TEST(Parameters, LookUpByName) {
  ParameterTable made(small());
  const ParameterTable table = std::move(made);
  for (const ParameterInfo& info : table.infos()) EXPECT_EQ(table.find(info.name), &info);
  EXPECT_EQ(table.find("model.layers.3.mlp.up_proj.weight"), nullptr);
  EXPECT_EQ(table.find(""), nullptr);
  EXPECT_EQ(ParameterTable(small(true)).find("lm_head.weight"), nullptr);
}

template <class T>
void expect_at(const BasicTensor<T>& view, const char* base, const ParameterInfo& info, DType dtype) {
  EXPECT_EQ(static_cast<const char*>(view.data) - base, info.offset * size_of(dtype)) << info.name;
  EXPECT_EQ(view.dtype, dtype);
  EXPECT_EQ(view.tokens, info.rows);
  EXPECT_EQ(view.dim, info.columns);
  EXPECT_TRUE(view.contiguous() && view.heads == 1);
}

TEST(Parameters, Views) {
  for (const bool tied : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ParameterTable table(small(tied));
      std::vector<char> memory(static_cast<std::size_t>(table.total() * size_of(dtype)));
      const char* base = memory.data();
      const LayerParameters<Tensor> view = layer_view(table, Placed<void*>{memory.data()}, dtype, 1);
      const Tensor all[] = {view.input_norm, view.q,    view.k,  view.v,   view.o,
                            view.post_norm,  view.gate, view.up, view.down};
      for (std::size_t i = 0; i < 9; ++i) expect_at(all[i], base, table.layer(1)[i], dtype);
      const LayerParameters<ConstTensor> constant = layer_view(table, Placed<const void*>{base}, dtype, 2);
      expect_at(constant.o, base, *table.find("model.layers.2.self_attn.o_proj.weight"), dtype);
      const OuterParameters<ConstTensor> outer = outer_view(table, static_cast<const void*>(base), dtype);
      expect_at(outer.embedding, base, table.embedding(), dtype);
      expect_at(outer.final_norm, base, table.final_norm(), dtype);
      expect_at(outer.lm_head, base, table.lm_head(), dtype);
      EXPECT_EQ(outer.lm_head.data == outer.embedding.data, tied);
    }
}

TEST(Parameters, NonsenseAndExcessAreRefused) {
  ModelConfig config = small();
  config.kv_heads = 3;
  EXPECT_THROW(ParameterTable{config}, ArgumentError);
  const std::int64_t wide = 1 << 24;
  const ModelConfig excess{.vocabulary = 1000,
                           .width = wide,
                           .ffn = wide,
                           .layers = 100'000,
                           .q_heads = 1 << 16,
                           .kv_heads = 1 << 16,
                           .head_dim = 256};
  EXPECT_THROW(ParameterTable{excess}, ArgumentError);
}

std::vector<float> initialised(const ModelConfig& config, std::uint64_t seed, ThreadPool* pool = nullptr) {
  const ParameterTable table(config);
  std::vector<float> flat(static_cast<std::size_t>(table.total()), std::nanf(""));
  initialise(table, config, seed, flat, pool);
  return flat;
}

TEST(Initialise, NormsAreOneAndPaddingZero) {
  const ParameterTable table(small());
  const std::vector<float> flat = initialised(small(), 5);
  std::vector<bool> inside(flat.size());
  for (const ParameterInfo& info : table.infos())
    for (std::int64_t i = info.offset; i < info.offset + info.elements(); ++i) {
      inside[static_cast<std::size_t>(i)] = true;
      EXPECT_TRUE(std::isfinite(flat[static_cast<std::size_t>(i)]));
      if (info.is_norm()) {
        EXPECT_EQ(flat[static_cast<std::size_t>(i)], 1.0f);
      }
    }
  for (std::size_t i = 0; i < flat.size(); ++i)
    if (!inside[i]) {
      EXPECT_EQ(flat[i], 0.0f);
    }
}

TEST(Initialise, SameSeedSameBitsWhateverTheThreads) {
  ModelConfig config = small();
  config.vocabulary = 20011;  // several tasks, the last one short and not a multiple of four
  config.width = 9;
  const std::vector<float> one = initialised(config, 7);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    EXPECT_EQ(one, initialised(config, 7, &pool));
  }
  EXPECT_NE(one, initialised(config, 8));
}

TEST(Initialise,
     AParameterDoesNotDependOnTheOthers) {  // tying or more layers leave the first ones as they were
  const ParameterTable table(small());
  ModelConfig deeper = small(true);
  deeper.layers = 5;
  const std::vector<float> a = initialised(small(), 3), b = initialised(deeper, 3);
  const auto begin = table.layer(1)[1].offset;
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + table.layer(0)[4].offset, b.begin()));  // up to the first o
  EXPECT_TRUE(std::equal(a.begin() + begin, a.begin() + table.layer(1)[4].offset, b.begin() + begin));
}

struct Moments {
  double mean = 0, deviation = 0, kurtosis = 0, tail = 0;  // tail: the share beyond two deviations
};

Moments moments(const float* x, std::int64_t n, double deviation) {
  double sums[4] = {}, tail = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double z = x[i] / deviation;
    sums[0] += z, sums[1] += z * z, sums[3] += z * z * z * z;
    tail += std::abs(z) > 2;
  }
  const auto count = static_cast<double>(n);
  return {sums[0] / count, std::sqrt(sums[1] / count), sums[3] / count, tail / count};
}

TEST(Initialise, MatricesAreNormal) {
  const ModelConfig config{.vocabulary = 1000,
                           .width = 128,
                           .ffn = 512,
                           .layers = 2,
                           .q_heads = 4,
                           .kv_heads = 4,
                           .head_dim = 32,
                           .initializer_range = 0.05f};
  const ParameterTable table(config);
  const std::vector<float> flat = initialised(config, 11);
  for (const ParameterInfo& info : table.infos()) {
    if (info.is_norm()) continue;
    const bool residual =
        info.name.find("o_proj") != std::string::npos || info.name.find("down_proj") != std::string::npos;
    const Moments m = moments(flat.data() + info.offset, info.elements(), residual ? 0.05 / 2 : 0.05);
    const double root = std::sqrt(static_cast<double>(info.elements()));  // bounds: five standard errors
    EXPECT_NEAR(m.mean, 0, 5 / root) << info.name;
    EXPECT_NEAR(m.deviation, 1, 5 * std::sqrt(0.5) / root) << info.name;
    EXPECT_NEAR(m.kurtosis, 3, 5 * std::sqrt(96.0) / root) << info.name;
    EXPECT_NEAR(m.tail, 0.0455, 5 * std::sqrt(0.0455) / root) << info.name;
  }
  // No number occurs in two places by a repeated counter.
  std::vector<float> distinct = flat;
  std::sort(distinct.begin(), distinct.end());
  const auto count = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  EXPECT_GT(static_cast<double>(count), 0.95 * static_cast<double>(table.parameters()));
}

TEST(Initialise, WrongLengthIsRefused) {
  const ParameterTable table(small());
  std::vector<float> flat(static_cast<std::size_t>(table.total() - 1));
  EXPECT_THROW(initialise(table, small(), 1, flat), ArgumentError);
}

TEST(ModelFlopsTest, CountsUsefulWork) {
  // Per layer: q 24x10, k and v 12x10, o 10x24, gate, up and down 14x10; output matrix 37x10 tied or not.
  const double linear = 2.0 * (3 * (240 + 120 + 120 + 240 + 3 * 140) + 370);
  for (const bool tied : {false, true}) {
    const ModelFlops flops = model_flops(small(tied));
    EXPECT_EQ(flops.linear_per_token, linear);
    EXPECT_EQ(flops.attention_per_pair, 4.0 * 3 * 4 * 6);
    EXPECT_EQ(flops.forward(5, 15), 5 * linear + 15 * 288);
    EXPECT_EQ(flops.training(5, 15), 3 * (5 * linear + 15 * 288));
  }
}

}  // namespace
}  // namespace rondo
