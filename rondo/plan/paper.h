#pragma once
// Tables 2 and 3 of Ring Attention with Blockwise Transformers (arXiv 2310.01889) as they follow from the
// paper's own counts, beside what it reports. docs/plan.md says where and why the two differ.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "rondo/model/config.h"
#include "rondo/plan/hardware.h"

namespace rondo {

/// The forms of the Transformer that the paper compares, each of one sequence.
enum class PaperForm { vanilla, memory_efficient, blockwise, ring };
const char* name_of(PaperForm form);

/// Bytes of a device's layer while it computes forward (paper, Table 1, for elements of `element_bytes`; its
/// own are of bfloat16). `tokens`: of the sequence; the ring has its share of them.
double paper_layer_bytes(PaperForm form, const ModelConfig& model, double tokens, int devices,
                         double element_bytes);

struct PaperRun {
  Hardware hardware;
  int devices = 1;
  ModelConfig model;
};
/// Longest sequence by the paper's counts: full precision, all state sharded over all devices (16 bytes a
/// parameter), a layer's weights and gradients gathered, each layer's input kept, and of one layer the above
/// with as much again for gradients. 0 where the state alone does not fit.
double paper_longest_context(PaperForm form, const PaperRun& run);

/// A row of Table 2: tokens of a block whose attention takes as long as its exchange, F / B, and of the
/// shortest sequence, six blocks.
struct PaperOverlap {
  std::string name;
  Hardware hardware;
  double bytes_per_second = 0;
  double block = 0, sequence = 0;                    ///< derived, tokens
  double reported_block = 0, reported_sequence = 0;  ///< thousands of tokens
};
std::vector<PaperOverlap> paper_table_2();

/// A row of Table 3, contexts by PaperForm.
struct PaperContexts {
  std::string name, model;
  int devices = 1;
  std::array<double, 4> derived{};   ///< tokens
  std::array<double, 4> reported{};  ///< thousands of tokens: powers of two of 1,024
};
std::vector<PaperContexts> paper_table_3();

}  // namespace rondo
