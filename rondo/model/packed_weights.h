#pragma once
// The weights at work in the form that products read fastest: packed when a function of a layer begins, into
// one buffer of the device that the next function uses again. Nothing is packed for longer: a copy of the
// whole model in packed form would be as large as the model.

#include <span>

#include "rondo/core/context.h"
#include "rondo/kernels/kernels.h"

namespace rondo {

/// A weight as it lies and, where packing it pays, packed for one use.
struct ReadyWeight {
  ConstTensor w_NK;
  kernels::PackedWeight packed{};  ///< null data: not packed
};

/// y (+)= x · w^T, and dx (+)= dy · w.
void forward_product(Stream& stream, const ConstTensor& x_TK, const ReadyWeight& w, const Tensor& y_TN,
                     kernels::Store store);
void backward_product(Stream& stream, const ConstTensor& dy_TN, const ReadyWeight& w, const Tensor& dx_TK,
                      kernels::Store store);

class PackedWeights {
 public:
  /// The context must outlive it. Holds no memory until something is packed.
  explicit PackedWeights(Context& context) : context_(&context) {}

  struct Request {
    ConstTensor w_NK;
    kernels::WeightUse use = kernels::WeightUse::forward;
  };
  /// Makes all of `requests` (ready has at least as many) ready for products with `tokens` tokens in all:
  /// packs them, over whatever the call before packed, unless the tokens are few. Grows its buffer
  /// (Entry::packed_weights) at need.
  void prepare(std::span<const Request> requests, std::int64_t tokens, std::span<ReadyWeight> ready);

 private:
  Context* context_;
  Buffer memory_;
};

}  // namespace rondo
