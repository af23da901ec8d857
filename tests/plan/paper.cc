// Tables 2 and 3 of the Ring Attention paper (arXiv 2310.01889), derived beside reported.

#include "rondo/plan/paper.h"

#include <gtest/gtest.h>

#include <cmath>

#include "rondo/plan/models.h"
#include "rondo/plan/overlap.h"

namespace rondo {
namespace {

TEST(Paper, Table2IsReproduced) {
  for (const PaperOverlap& row : paper_table_2()) {
    SCOPED_TRACE(row.name);
    // The paper rounds; 312 / 12.5 is 24.96 and not 24.5.
    EXPECT_NEAR(row.block / 1e3, row.reported_block, row.reported_block == 24.5 ? 0.5 : 0.051);
    EXPECT_NEAR(row.sequence / 1e3, row.reported_sequence, 0.06 * 1.1 + 0.01 * row.reported_sequence);
    EXPECT_DOUBLE_EQ(row.sequence, 6 * row.block);
    // The program's own formula says the same without a mask, for as many key/value heads as query heads.
    const HopModel hop{.flops = row.hardware.bf16_flops,
                       .bytes_per_second = row.bytes_per_second,
                       .heads = 32,
                       .kv_heads = 32,
                       .head_dim = 128,
                       .dtype = DType::bf16,
                       .causal = false};
    EXPECT_NEAR(tokens_to_hide_forward(hop), row.block, 1e-6 * row.block);
  }
}

TEST(Paper, LayersTakeTheBytesOfTable1) {
  const ModelConfig& model = find_named_model("llama-7b")->config;
  const double s = 1 << 20, h = 4096, n = 32;
  EXPECT_DOUBLE_EQ(paper_layer_bytes(PaperForm::vanilla, model, s, 8, 2), 2 * n * s * s + 8 * s * h);
  EXPECT_DOUBLE_EQ(paper_layer_bytes(PaperForm::memory_efficient, model, s, 8, 2), 8 * s * h);
  EXPECT_DOUBLE_EQ(paper_layer_bytes(PaperForm::blockwise, model, s, 8, 2), 2 * s * h);
  EXPECT_DOUBLE_EQ(paper_layer_bytes(PaperForm::ring, model, s, 8, 2), 6 * s / 8 * h);
}

/// What can be said of all of Table 3: the forms' order, how the ring grows, and where the figures agree.
TEST(Paper, Table3IsReproducedAsFarAsThePapersOwnCountsReach) {
  const auto form = [](PaperForm f) { return static_cast<std::size_t>(f); };
  for (const PaperContexts& row : paper_table_3()) {
    SCOPED_TRACE(row.name + ", " + row.model);
    for (std::size_t n = 1; n < 4; ++n) EXPECT_GE(row.derived[n], row.derived[n - 1]);
    // The ring of N holds nearly N times what one device does: its layer at work takes three times as much.
    const double ring = row.derived[form(PaperForm::ring)] / row.derived[form(PaperForm::blockwise)];
    EXPECT_LT(ring, row.devices);
    EXPECT_GT(ring, 0.7 * row.devices);
    // The paper never reports more than its counts allow, but for rounding up to a power of two.
    for (std::size_t n = 0; n < 4; ++n) EXPECT_GT(row.derived[n] / 1024, 0.99 * row.reported[n]) << n;
    for (std::size_t n = 0; n < 4; ++n) EXPECT_LT(row.derived[n] / 1024, 16 * row.reported[n]) << n;
  }
}

/// On 32 A100 the paper's figures are its counts, rounded down to powers of two.
TEST(Paper, Table3Of32A100IsExact) {
  int rows = 0;
  for (const PaperContexts& row : paper_table_3()) {
    if (row.devices != 32) continue;
    ++rows;
    for (const PaperForm form : {PaperForm::memory_efficient, PaperForm::blockwise, PaperForm::ring}) {
      const auto n = static_cast<std::size_t>(form);
      const double ratio = row.derived[n] / 1024 / row.reported[n];
      EXPECT_GT(ratio, 0.99) << row.model << ", " << name_of(form);
      EXPECT_LT(ratio, form == PaperForm::memory_efficient ? 2.5 : 1.4) << row.model << ", " << name_of(form);
    }
  }
  EXPECT_EQ(rows, 2);
}

}  // namespace
}  // namespace rondo
