#include "rondo/kernels/cpu/dnnl_shim.h"

#include <omp.h>

#include <dnnl.hpp>

#include "rondo/core/error.h"

namespace rondo::kernels {

namespace {

constexpr std::size_t kMostProducts = 4096;

/// oneDNN asks OpenMP how many threads to use, at creation and at execution: one. With more it would split
/// sums by their number. The caller's setting comes back afterwards.
class SingleThreaded {
 public:
  SingleThreaded() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreaded() { omp_set_num_threads(before_); }
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_;
};

dnnl::memory::data_type type_of(DType dtype) {
  return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::primitive_attr attributes_of(const ProductShape& shape) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  // Whatever the environment says: float32 products are never rounded to fewer bits.
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  return attributes;
}

}  // namespace

struct Product::Parts {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::memory::desc a, b, c, scratch;
  dnnl::matmul matmul;
};

std::unique_ptr<Product> Product::create(const ProductShape& shape) {
  const SingleThreaded guard;
  auto parts = std::make_unique<Parts>();
  parts->a = {{shape.m, shape.k}, type_of(shape.in), {shape.a_row, shape.a_column}};
  parts->b = {{shape.k, shape.n}, type_of(shape.in), {shape.b_row, shape.b_column}};
  parts->c = {{shape.m, shape.n}, type_of(shape.out), {shape.c_row, 1}};
  const dnnl::primitive_attr attributes = attributes_of(shape);
  constexpr bool allow_empty = true;
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(parts->engine, parts->a, parts->b, parts->c, attributes,
                                                 allow_empty);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(parts->a, parts->b, parts->c), attributes,
                                                 parts->engine, allow_empty);
#endif
  if (description.get(true) == nullptr) return nullptr;
  parts->scratch = description.scratchpad_desc();
  parts->matmul = dnnl::matmul(description);
  return std::unique_ptr<Product>(new Product(std::move(parts)));
}

Product::Product(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Product::~Product() = default;

std::int64_t Product::scratch_bytes() const { return static_cast<std::int64_t>(parts_->scratch.get_size()); }

void Product::execute(const void* a, const void* b, void* c, void* scratch) const {
  const SingleThreaded guard;
  const Parts& parts = *parts_;
  dnnl::stream stream(parts.engine);
  // oneDNN's memory has no constant form; it only reads the sources.
  const dnnl::memory a_memory(parts.a, parts.engine, const_cast<void*>(a));
  const dnnl::memory b_memory(parts.b, parts.engine, const_cast<void*>(b));
  const dnnl::memory c_memory(parts.c, parts.engine, c);
  const dnnl::memory scratch_memory(parts.scratch, parts.engine, scratch);
  parts.matmul.execute(stream, {{DNNL_ARG_SRC, a_memory},
                                {DNNL_ARG_WEIGHTS, b_memory},
                                {DNNL_ARG_DST, c_memory},
                                {DNNL_ARG_SCRATCHPAD, scratch_memory}});
  stream.wait();
}

ProductCache& ProductCache::of(Stream& stream) {
  if (!stream.extension) stream.extension = std::make_unique<ProductCache>();
  auto* cache = dynamic_cast<ProductCache*>(stream.extension.get());
  RONDO_ASSERT(cache != nullptr);
  return *cache;
}

const Product* ProductCache::find(const ProductShape& shape) {
  if (shape.in == DType::bf16 && !native_bf16_) return nullptr;
  const auto found = products_.find(shape);
  if (found != products_.end()) return found->second.get();
  return products_.emplace(shape, Product::create(shape)).first->second.get();
}

void ProductCache::make_room() {
  if (products_.size() > kMostProducts) products_.clear();
}

}  // namespace rondo::kernels
