#include "rondo/kernels/cpu/product.h"

#include <algorithm>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"

namespace rondo::kernels {

namespace {

// Rows and columns of a tile. With b packed, rows are those whose words stay in the second-level cache beside
// a panel of b; else as many as make packing b cheap. Columns are few, for enough tiles to share out.
constexpr std::int64_t kTileRows = 192, kTileColumns = 256;
constexpr std::int64_t kPackingRows = 1024, kPackingColumns = 128;
// Rows of a up to which packing b costs more than reading both factors as they lie.
constexpr std::int64_t kFewRows = 32;
// Words between rows of a copied tile beyond its own: rows do not fall on each other in the first-level
// cache.
constexpr std::int64_t kRowGap = 16;

template <class Pointer>
Pointer at(Pointer data, DType dtype, std::int64_t offset) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const std::byte, std::byte>;
  return static_cast<Byte*>(data) + offset * size_of(dtype);
}

/// A product with many rows: its tiles, and what each worker needs in scratch.
class TiledProduct {
 public:
  TiledProduct(Stream& stream, const ProductArgs& args)
      : stream_(stream), args_(args), kernels_(product_kernels(stream.isa())) {
    const bool packs = args.packed == nullptr;
    const std::int64_t words = words_of(kernels_, args.dtype, args.k);
    words_ = even_cut(words, kPieceWords, 4);
    rows_ = even_cut(args.m, packs ? kPackingRows : kTileRows, kernels_.rows);
    columns_ = {args.n, packs ? kPackingColumns : kTileColumns};
    // Rows are read as they lie where they are rows of whole words.
    const bool narrow = args.dtype == DType::bf16;
    copies_a_ = narrow && !(kernels_.pairs && args.k % 2 == 0);
    sums_apart_ = args.c_dtype != DType::f32 && words_.parts() > 1;
    const std::int64_t rows = std::min(rows_.part, args.m), columns = std::min(columns_.part, args.n);
    b_offset_ = copies_a_ ? rows * (words_.part + kRowGap) : 0;
    sums_offset_ = b_offset_ + (packs ? words_.part * (columns + kernels_.unit) : 0);
    scratch_ = sums_offset_ + (sums_apart_ ? rows * columns : 0);
  }

  void run() {
    stream_.reserve_scratch(scratch_ * 4);
    stream_.pool().run(rows_.parts() * columns_.parts(), [this](std::int64_t index, int worker) {
      const Range rows = rows_.range(index / columns_.parts()),
                  columns = columns_.range(index % columns_.parts());
      for (std::int64_t piece = 0; piece < words_.parts(); ++piece) run_piece(rows, columns, piece, worker);
    });
  }

 private:
  void run_piece(Range rows, Range columns, std::int64_t piece, int worker) {
    auto* scratch = reinterpret_cast<std::uint32_t*>(stream_.scratch(worker));
    const Range words = words_.range(piece);
    ProductBlock block{.rows = rows.size(), .columns = columns.size(), .words = words.size()};
    block.pairs = kernels_.pairs && args_.dtype == DType::bf16;
    place_a(rows, words, scratch, block);
    place_b(columns, words, scratch + b_offset_, block);
    place_c(rows, columns, piece, reinterpret_cast<float*>(scratch + sums_offset_), block);
    kernels_.multiply(block);
  }

  void place_a(Range rows, Range words, std::uint32_t* copy, ProductBlock& block) const {
    const FactorSource source{.data = args_.a,
                              .is_bf16 = args_.dtype == DType::bf16,
                              .stride = args_.a_row_stride,
                              .lines = args_.m,
                              .terms = args_.k};
    const FactorSource part = terms_of(kernels_, lines_of(source, rows), words);
    block.a = part.data, block.a_stride = part.stride * size_of(args_.dtype);
    if (!copies_a_) return;
    kernels_.pack_rows(part, copy, words_.part + kRowGap);
    block.a = copy, block.a_stride = (words_.part + kRowGap) * 4;
  }

  void place_b(Range columns, Range words, std::uint32_t* copy, ProductBlock& block) const {
    if (args_.packed != nullptr) {
      block.b = args_.packed + columns.begin * words_.extent;
      block.b_panel = kernels_.columns * words_.extent, block.b_first = words.begin;
      return;
    }
    kernels_.pack(terms_of(kernels_, lines_of(args_.b, columns), words), kernels_.columns, kernels_.unit,
                  copy);
    block.b = copy, block.b_panel = kernels_.columns * words.size();
  }

  /// Where sums come from and go to: through all pieces of a sum they stay float32.
  void place_c(Range rows, Range columns, std::int64_t piece, float* sums, ProductBlock& block) const {
    const bool first = piece == 0, last = piece + 1 == words_.parts(), single = args_.c_dtype == DType::f32;
    block.to = at(args_.c, args_.c_dtype, rows.begin * args_.c_row_stride + columns.begin);
    block.to_stride = args_.c_row_stride, block.to_bf16 = !single;
    if (single) {
      if (args_.accumulate || !first)
        block.from = static_cast<const float*>(block.to), block.from_stride = block.to_stride;
      return;
    }
    if (!first) block.from = sums, block.from_stride = columns.size();
    if (last)
      block.add = args_.accumulate;
    else
      block.to = sums, block.to_stride = columns.size(), block.to_bf16 = false;
  }

  Stream& stream_;
  const ProductArgs& args_;
  const ProductKernels& kernels_;
  Cut words_, rows_, columns_;
  bool copies_a_ = false, sums_apart_ = false;
  std::int64_t b_offset_ = 0, sums_offset_ = 0, scratch_ = 0;
};

/// A product with few rows, whose b lies term by term: nothing is packed.
void few_rows(Stream& stream, const ProductArgs& args) {
  const ProductKernels& kernels = product_kernels(stream.isa());
  const RowKernels& rows = row_kernels(stream.isa());
  const std::int64_t columns = std::clamp<std::int64_t>(kTaskElements / args.k, 8, kRowPart) / 8 * 8;
  const Cut cut{args.n, columns};
  stream.reserve_scratch(args.m * columns * 4);
  stream.pool().run(cut.parts(), [&](std::int64_t index, int worker) {
    const Range range = cut.range(index);
    auto* sums = reinterpret_cast<float*>(stream.scratch(worker));
    kernels.dots({.x = args.a,
                  .w = lines_of(args.b, range).data,
                  .is_bf16 = args.dtype == DType::bf16,
                  .x_stride = args.a_row_stride,
                  .w_stride = args.b.stride,
                  .tokens = args.m,
                  .rows = range.size(),
                  .terms = args.k,
                  .y = sums});
    for (std::int64_t row = 0; row < args.m; ++row)
      store_row(rows, sums + row * range.size(),
                at(args.c, args.c_dtype, row * args.c_row_stride + range.begin), args.c_dtype, range.size(),
                args.accumulate);
  });
}

void clear(const ProductArgs& args) {
  for (std::int64_t i = 0; i < args.m; ++i)
    std::fill_n(static_cast<std::byte*>(at(args.c, args.c_dtype, i * args.c_row_stride)),
                args.n * size_of(args.c_dtype), std::byte{0});
}

}  // namespace

const ProductKernels& product_kernels(Isa isa) { return *row_kernels(isa).products; }

FactorSource terms_of(const ProductKernels& kernels, const FactorSource& source, Range words) {
  const std::int64_t per_word = kernels.pairs && source.is_bf16 ? 2 : 1, first = words.begin * per_word;
  const DType dtype = source.is_bf16 ? DType::bf16 : DType::f32;
  FactorSource part = source;
  part.data = at(source.data, dtype, first * (source.across ? source.stride : 1));
  part.terms = std::min(source.terms - first, words.size() * per_word);
  return part;
}

FactorSource lines_of(const FactorSource& source, Range lines) {
  FactorSource part = source;
  part.data = at(source.data, source.is_bf16 ? DType::bf16 : DType::f32,
                 lines.begin * (source.across ? 1 : source.stride));
  part.lines = lines.size();
  return part;
}

void product(Stream& stream, const ProductArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    if (!args.accumulate) clear(args);
  } else if (args.packed == nullptr && args.m <= kFewRows && !args.b.across) {
    few_rows(stream, args);
  } else {
    TiledProduct(stream, args).run();
  }
}

std::int64_t packed_words(Isa isa, DType dtype, std::int64_t lines, std::int64_t terms) {
  const ProductKernels& kernels = product_kernels(isa);
  return (lines + kernels.unit - 1) / kernels.unit * kernels.unit * words_of(kernels, dtype, terms);
}

void pack_columns(Stream& stream, const FactorSource& source, std::uint32_t* to) {
  const ProductKernels& kernels = product_kernels(stream.isa());
  const std::int64_t words = words_of(kernels, source.is_bf16 ? DType::bf16 : DType::f32, source.terms);
  if (source.lines == 0 || words == 0) return;
  const Cut cut{source.lines, kernels.columns};
  stream.pool().run(cut.parts(), [&](std::int64_t panel, int) {
    kernels.pack(lines_of(source, cut.range(panel)), kernels.columns, kernels.unit,
                 to + panel * kernels.columns * words);
  });
}

}  // namespace rondo::kernels
