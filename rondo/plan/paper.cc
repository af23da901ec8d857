#include "rondo/plan/paper.h"

#include <algorithm>
#include <cmath>

#include "rondo/core/error.h"
#include "rondo/model/parameters.h"
#include "rondo/plan/models.h"

namespace rondo {

namespace {

constexpr double kElement = 4;  // "full precision"

/// Bytes that do not grow with the sequence.
double state_bytes(const PaperRun& run) {
  const ParameterTable table(run.model);
  double gathered = 0;  // weights and gradients of what is largest
  for (const Range& bucket : table.buckets())
    gathered = std::max(gathered, static_cast<double>(bucket.size()));
  return 4 * kElement * static_cast<double>(table.parameters()) / run.devices + 2 * kElement * gathered;
}

double bytes(PaperForm form, const PaperRun& run, double tokens) {
  const double own = form == PaperForm::ring ? tokens / run.devices : tokens;
  const double inputs = static_cast<double>(run.model.layers * run.model.width) * own * kElement;
  return state_bytes(run) + inputs + 2 * paper_layer_bytes(form, run.model, tokens, run.devices, kElement);
}

}  // namespace

const char* name_of(PaperForm form) {
  switch (form) {
    case PaperForm::vanilla:
      return "vanilla";
    case PaperForm::memory_efficient:
      return "memory-efficient attention";
    case PaperForm::blockwise:
      return "blockwise attention and feed-forward";
    case PaperForm::ring:
      return "ring attention";
  }
  return "";
}

double paper_layer_bytes(PaperForm form, const ModelConfig& model, double tokens, int devices,
                         double element_bytes) {
  const double e = element_bytes, h = static_cast<double>(model.width),
               n = static_cast<double>(model.q_heads);
  switch (form) {
    case PaperForm::vanilla:  // scores of all heads, and the hidden units of the feed-forward
      return e * n * tokens * tokens + 4 * e * tokens * h;
    case PaperForm::memory_efficient:
      return 4 * e * tokens * h;
    case PaperForm::blockwise:
      return e * tokens * h;
    case PaperForm::ring:  // six blocks, in the paper's bytes: see docs/plan.md
      return 3 * e * tokens / devices * h;
  }
  return 0;
}

double paper_longest_context(PaperForm form, const PaperRun& run) {
  const auto limit = static_cast<double>(run.hardware.memory);
  double fits = 0, too_long = 1;
  while (bytes(form, run, too_long) <= limit) fits = too_long, too_long *= 2;
  while (too_long - fits > std::max(0.5, 1e-9 * too_long)) {
    const double middle = (fits + too_long) / 2;
    (bytes(form, run, middle) <= limit ? fits : too_long) = middle;
  }
  return std::floor(fits);
}

std::vector<PaperOverlap> paper_table_2() {
  const std::vector<Hardware> all = built_in_hardware();
  std::vector<PaperOverlap> rows;
  const auto add = [&](const char* name, const char* hardware, bool node, double block, double sequence) {
    PaperOverlap row{.name = name, .hardware = find_hardware(all, hardware)};
    row.bytes_per_second = (node ? row.hardware.node : row.hardware.network).bytes_per_second;
    // 4 d c^2 operations against 4 c d bytes of keys and values in bfloat16.
    row.block = row.hardware.bf16_flops / row.bytes_per_second;
    row.sequence = 6 * row.block;
    row.reported_block = block;
    row.reported_sequence = sequence;
    rows.push_back(std::move(row));
  };
  add("A100, NVLink", "a100-80gb", true, 1.0, 6.2);
  add("A100, InfiniBand", "a100-80gb", false, 24.5, 149.5);
  add("TPU v3", "tpu-v3", false, 1.1, 6.6);
  add("TPU v4", "tpu-v4", false, 1.0, 6.2);
  add("TPU v5e", "tpu-v5e", false, 1.1, 6.3);
  return rows;
}

std::vector<PaperContexts> paper_table_3() {
  const std::vector<Hardware> all = built_in_hardware();
  std::vector<PaperContexts> rows;
  const auto add = [&](const char* name, const char* hardware, int devices, const char* model,
                       std::array<double, 4> reported) {
    const NamedModel* named = find_named_model(model);
    RONDO_ASSERT(named != nullptr);
    const PaperRun run{find_hardware(all, hardware), devices, named->config};
    PaperContexts row{.name = name, .model = model, .devices = devices, .reported = reported};
    for (std::size_t form = 0; form < row.derived.size(); ++form)
      row.derived[form] = paper_longest_context(static_cast<PaperForm>(form), run);
    rows.push_back(std::move(row));
  };
  add("8 A100, NVLink", "a100-80gb", 8, "llama-3b", {4, 32, 64, 512});
  add("8 A100, NVLink", "a100-80gb", 8, "llama-7b", {2, 16, 32, 256});
  add("8 A100, NVLink", "a100-80gb", 8, "llama-13b", {2, 4, 16, 128});
  add("32 A100, InfiniBand", "a100-80gb", 32, "llama-7b", {4, 64, 128, 4096});
  add("32 A100, InfiniBand", "a100-80gb", 32, "llama-13b", {4, 32, 64, 2048});
  add("TPUv3-512", "tpu-v3", 512, "llama-7b", {1, 4, 8, 2048});
  add("TPUv3-512", "tpu-v3", 512, "llama-13b", {1, 2, 8, 1024});
  add("TPUv4-1024", "tpu-v4", 512, "llama-3b", {8, 16, 32, 16384});
  add("TPUv4-1024", "tpu-v4", 512, "llama-7b", {4, 8, 16, 8192});
  add("TPUv4-1024", "tpu-v4", 512, "llama-13b", {4, 8, 16, 4096});
  add("TPUv4-1024", "tpu-v4", 512, "llama-30b", {2, 4, 8, 2048});
  add("TPUv5e-256", "tpu-v5e", 256, "llama-3b", {4, 8, 32, 4096});
  add("TPUv5e-256", "tpu-v5e", 256, "llama-7b", {2, 8, 16, 2048});
  return rows;
}

}  // namespace rondo
