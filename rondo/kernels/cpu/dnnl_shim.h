#pragma once
// The one file that knows oneDNN, and with it the differences between its versions 2 and 3.

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "rondo/core/dtype.h"
#include "rondo/core/stream.h"

namespace rondo::kernels {

/// c[m, n] = a[m, k] · b[k, n], or c += ...; everything that a compiled product depends on. Strides count
/// elements; the columns of c are contiguous.
struct ProductShape {
  DType in = DType::f32, out = DType::f32;
  bool accumulate = false;
  std::int64_t m = 0, n = 0, k = 0;  ///< each at least 1
  std::int64_t a_row = 0, a_column = 0, b_row = 0, b_column = 0, c_row = 0;
  friend auto operator<=>(const ProductShape&, const ProductShape&) = default;
};

/// One compiled product. Constant, so that several threads may execute it at once.
class Product {
 public:
  /// Null when this processor cannot multiply that dtype.
  static std::unique_ptr<Product> create(const ProductShape& shape);
  ~Product();
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  std::int64_t scratch_bytes() const;
  /// On the calling thread alone. `scratch` holds scratch_bytes(), 64-byte aligned.
  void execute(const void* a, const void* b, void* c, void* scratch) const;

 private:
  struct Parts;
  explicit Product(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

/// The compiled products of one stream. Found or created before the parallel part, executed within it.
class ProductCache final : public StreamExtension {
 public:
  /// Without `native_bf16` products of bfloat16 are reported as impossible, as on a processor that lacks
  /// them.
  explicit ProductCache(bool native_bf16 = true) : native_bf16_(native_bf16) {}

  /// The stream's cache, made at the first call.
  static ProductCache& of(Stream& stream);

  /// Null when this processor cannot multiply that dtype. The pointer lives until make_room().
  const Product* find(const ProductShape& shape);
  /// Forgets everything once very many shapes have been seen (texts of ever new lengths).
  void make_room();

 private:
  bool native_bf16_;
  std::map<ProductShape, std::unique_ptr<Product>> products_;
};

}  // namespace rondo::kernels
