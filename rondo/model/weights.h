#pragma once
// How passes come to a model's weights and leave its gradients: bucket by bucket (ParameterTable::buckets()),
// so that no device has to hold all of them at once.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "rondo/core/tensor.h"

namespace rondo {

/// Where elements of a flat buffer lie: `data` is element `origin` of it.
template <class Pointer>
struct Placed {
  Pointer data = nullptr;
  std::int64_t origin = 0;
};

/// Weights in the storage type of the activations.
class WeightReader {
 public:
  /// The first element of a bucket. It stays until another bucket of the same place is fetched; those of two
  /// layers that follow each other, of the embedding and of the head with a layer have places of their own.
  /// `next` is what will be fetched after it: a hint.
  using Fetch = std::function<const void*(std::size_t bucket, std::size_t next)>;

  WeightReader() = default;
  /// All of them lie in one flat buffer. Implicit: that is the usual case.
  WeightReader(const void* flat) : flat_(flat) {}
  explicit WeightReader(Fetch fetch) : fetch_(std::move(fetch)) {}

  Placed<const void*> get(std::size_t bucket, const Range& elements, std::size_t next) const {
    if (fetch_) return {fetch_(bucket, next), elements.begin};
    return {flat_, 0};
  }

 private:
  const void* flat_ = nullptr;
  Fetch fetch_;
};

/// Gradients, float32.
class GradientWriter {
 public:
  /// The first element of a bucket, to be added to. The same memory until done() was called for the bucket;
  /// then those of at least one other layer may be written while these are still read.
  using Open = std::function<float*(std::size_t bucket)>;
  using Done = std::function<void(std::size_t bucket)>;

  GradientWriter() = default;
  /// All of them lie in one flat buffer, and nobody needs to be told what is done.
  GradientWriter(float* flat) : flat_(flat) {}
  GradientWriter(Open open, Done done) : open_(std::move(open)), done_(std::move(done)) {}

  Placed<void*> get(std::size_t bucket, const Range& elements) const {
    if (open_) return {open_(bucket), elements.begin};
    return {flat_, 0};
  }
  /// This device adds no more to the bucket.
  void done(std::size_t bucket) const {
    if (done_) done_(bucket);
  }

 private:
  float* flat_ = nullptr;
  Open open_;
  Done done_;
};

}  // namespace rondo
