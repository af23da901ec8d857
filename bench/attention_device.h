#pragma once
// One device's part of attention over a sequence of drawn numbers, to be run again and again.

#include <cstdint>
#include <vector>

#include "rondo/attention/ring_attention.h"
#include "rondo/comm/device_group.h"

namespace rondo::bench {

struct AttentionCase {
  DType dtype = DType::f32;
  std::int64_t head_dim = 64, heads = 1, kv_heads = 1, ctx = 0;
  Mask mask{};
  Layout layout = Layout::zigzag;
  Exchange exchange = Exchange::copy;
  RingOptions ring{};
};

/// Inputs are drawn (bench/data.h): element i of tensor `stream` in global order is drawn(stream, i),
/// rounded.
enum AttentionStream : std::uint64_t { kQueries = 1, kKeys, kValues, kOutputGradients };

/// One device's tensors and its ring.
class AttentionDevice {
 public:
  AttentionDevice(Context& context, Communicator& communicator, const AttentionCase& what);

  void forward();
  /// Of the last forward's outputs.
  void backward();
  /// From now on blocks and gradients travel as before and nothing is computed on them.
  void exchange_only() { ring_.forget_tiles(); }

  std::int64_t tokens() const { return ring_.tokens(); }
  const std::vector<TokenPlace>& places() const { return places_; }
  const RingAttention& ring() const { return ring_; }
  enum class Part { out, dq, dk, dv };
  const Tensor& part(Part name) const;
  const float* lse_HT() const { return lse_.as<float>(); }

 private:
  void fill(const Tensor& tensor, std::uint64_t stream) const;
  kernels::AttentionParams params() const;

  RingAttention ring_;
  std::vector<TokenPlace> places_;
  std::vector<Buffer> memory_;
  Buffer lse_;
  Tensor q_, k_, v_, out_, dout_, dq_, dk_, dv_;
};

}  // namespace rondo::bench
