#pragma once
// One ONNX case, run by the reference or by the kernels.

#include <map>
#include <string>
#include <vector>

#include "rondo/core/stream.h"
#include "tests/support/onnx.h"

namespace rondo::test {

/// By the output's name, in the layout of the case.
using OnnxOutputs = std::map<std::string, std::vector<double>>;

/// Throws ArgumentError "[operator] expected ..., got ..." for what it does not cover.
OnnxOutputs run_reference(const OnnxCase& onnx_case);
OnnxOutputs run_kernels(Stream& stream, const OnnxCase& onnx_case);

/// RMSNormalization flattened to rows of the normalised dimensions.
inline std::int64_t onnx_norm_columns(const OnnxCase& c) {
  const NpyArray& x = c.inputs.at("X");
  const std::int64_t axis = c.integer("axis", -1);
  return x.size(axis < 0 ? axis + x.rank() : axis, x.rank());
}

/// RotaryEmbedding: extents and the cos and sin of each batch and token ([B,T,P], picked by position_ids if
/// given).
struct OnnxRotary {
  std::int64_t batches = 0, tokens = 0, heads = 0, dim = 0, pairs = 0;
  bool interleaved = false, heads_first = false;
  std::vector<double> cos_BTP, sin_BTP;
};
OnnxRotary read_onnx_rotary(const OnnxCase& onnx_case);

/// Labels of SoftmaxCrossEntropyLoss with ignore_index turned into -1.
std::vector<std::int32_t> onnx_labels(const OnnxCase& onnx_case);
/// Its output z from the losses of the tokens, by the attribute `reduction`.
std::vector<double> onnx_reduce_losses(const OnnxCase& onnx_case, const std::vector<double>& losses,
                                       const std::vector<std::int32_t>& labels);

}  // namespace rondo::test
