#include "rondo/model/packed_weights.h"

namespace rondo {

namespace {

// Up to so many tokens a product reads a weight as it lies for less than packing it costs.
constexpr std::int64_t kFewTokens = 64;

std::int64_t bytes_of(const Stream& stream, const PackedWeights::Request& request) {
  const ConstTensor& w = request.w_NK;
  const std::int64_t bytes =
      kernels::packed_weight_bytes(stream.isa(), w.dtype, w.tokens, w.dim, request.use);
  return (bytes + 63) / 64 * 64;
}

}  // namespace

void forward_product(Stream& stream, const ConstTensor& x_TK, const ReadyWeight& w, const Tensor& y_TN,
                     kernels::Store store) {
  if (w.packed.data != nullptr)
    kernels::linear_forward(stream, x_TK, w.packed, y_TN, store);
  else
    kernels::linear_forward(stream, x_TK, w.w_NK, y_TN, store);
}

void backward_product(Stream& stream, const ConstTensor& dy_TN, const ReadyWeight& w, const Tensor& dx_TK,
                      kernels::Store store) {
  if (w.packed.data != nullptr)
    kernels::linear_backward_input(stream, dy_TN, w.packed, dx_TK, store);
  else
    kernels::linear_backward_input(stream, dy_TN, w.w_NK, dx_TK, store);
}

void PackedWeights::prepare(std::span<const Request> requests, std::int64_t tokens,
                            std::span<ReadyWeight> ready) {
  RONDO_ASSERT(requests.size() <= ready.size());
  Stream& stream = context_->stream;
  std::int64_t bytes = 0;
  for (const Request& request : requests) bytes += bytes_of(stream, request);
  const bool packs = tokens > kFewTokens;
  if (packs && memory_.bytes() < bytes) {
    memory_ = Buffer();
    memory_ = context_->arena.allocate(Entry::packed_weights, bytes, "packed weights");
  }
  std::int64_t offset = 0;
  for (std::size_t n = 0; n < requests.size(); ++n) {
    ready[n] = {.w_NK = requests[n].w_NK};
    if (!packs) continue;
    ready[n].packed =
        kernels::pack_weight(stream, requests[n].w_NK, requests[n].use, memory_.as<std::byte>() + offset);
    offset += bytes_of(stream, requests[n]);
  }
}

}  // namespace rondo
