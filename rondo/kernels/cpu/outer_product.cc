// Sums over the rows of both factors: both are packed, in scratch of all workers together, then multiplied.

#include <algorithm>

#include "rondo/kernels/cpu/product.h"

namespace rondo::kernels {

namespace {

// Rows and columns of c that a task computes, and of a group whose factors are packed together: at most 4.5
// MiB.
constexpr std::int64_t kTileRows = 192, kTileColumns = 256;
constexpr std::int64_t kGroupRows = 4 * kTileRows, kGroupColumns = 6 * kTileColumns;

/// Packed tiles of one factor, dealt out to the workers' scratch memories.
struct Deal {
  std::int64_t lines = 0;                   ///< of a tile
  std::int64_t tile_words = 0, offset = 0;  ///< words of a tile, and before the first one of a worker

  Cut tiles(Range group) const { return {group.size(), lines}; }
  std::uint32_t* tile(const Stream& stream, std::int64_t index) const {
    const std::int64_t threads = stream.threads();
    return reinterpret_cast<std::uint32_t*>(stream.scratch(static_cast<int>(index % threads))) + offset +
           index / threads * tile_words;
  }
};

Range within(Range group, Range part) { return {group.begin + part.begin, group.begin + part.end}; }

class OuterProduct {
 public:
  OuterProduct(Stream& stream, const OuterProductArgs& args)
      : stream_(stream), args_(args), kernels_(product_kernels(stream.isa())) {
    words_ = even_cut(words_of(kernels_, args.dtype, args.k), kPieceWords, 4);
    rows_ = even_cut(args.m, kGroupRows, kernels_.rows);
    columns_ = {args.n, kGroupColumns};
    const std::int64_t piece = std::min(words_.part, words_.extent);
    const std::int64_t rows = std::min(rows_.part, args.m), columns = std::min(columns_.part, args.n);
    a_.lines = even_cut(rows, kTileRows, kernels_.rows).part, b_.lines = kTileColumns;
    a_.tile_words = (std::min(a_.lines, rows) * piece + 15) / 16 * 16;
    b_.tile_words = (std::min(b_.lines, columns) + kernels_.unit - 1) / kernels_.unit * kernels_.unit * piece;
    const std::int64_t threads = stream.threads();
    const auto of_worker = [&](const Deal& deal, std::int64_t lines) {
      return (deal.tiles({0, lines}).parts() + threads - 1) / threads * deal.tile_words;
    };
    b_.offset = of_worker(a_, rows);
    stream.reserve_scratch((b_.offset + of_worker(b_, columns)) * 4);
  }

  void run() const {
    for (std::int64_t piece = 0; piece < words_.parts(); ++piece)
      for (std::int64_t column = 0; column < columns_.parts(); ++column)
        for (std::int64_t row = 0; row < rows_.parts(); ++row)
          run_group(words_.range(piece), rows_.range(row), columns_.range(column));
  }

 private:
  void run_group(Range words, Range rows, Range columns) const {
    const Cut a = a_.tiles(rows), b = b_.tiles(columns);
    // The columns' factor is packed with the first rows and stays for the others.
    const std::int64_t packed_b = rows.begin == 0 ? b.parts() : 0;
    stream_.pool().run(a.parts() + packed_b, [&](std::int64_t index, int) {
      if (index < a.parts())
        pack(a_, index, within(rows, a.range(index)), words);
      else
        pack(b_, index - a.parts(), within(columns, b.range(index - a.parts())), words);
    });
    stream_.pool().run(a.parts() * b.parts(), [&](std::int64_t index, int) {
      const std::int64_t row = index / b.parts(), column = index % b.parts();
      const Range r = within(rows, a.range(row)), c = within(columns, b.range(column));
      float* to = args_.c + r.begin * args_.c_row_stride + c.begin;
      kernels_.multiply({.a = a_.tile(stream_, row),
                         .a_panels = true,
                         .b = b_.tile(stream_, column),
                         .b_panel = kernels_.columns * words.size(),
                         .rows = r.size(),
                         .columns = c.size(),
                         .words = words.size(),
                         .pairs = kernels_.pairs && args_.dtype == DType::bf16,
                         .from = to,
                         .from_stride = args_.c_row_stride,
                         .to = to,
                         .to_stride = args_.c_row_stride});
    });
  }

  void pack(const Deal& deal, std::int64_t tile, Range lines, Range words) const {
    const bool is_a = &deal == &a_;
    const FactorSource source{.data = is_a ? args_.a : args_.b,
                              .is_bf16 = args_.dtype == DType::bf16,
                              .across = true,
                              .stride = is_a ? args_.a_row_stride : args_.b_row_stride,
                              .lines = is_a ? args_.m : args_.n,
                              .terms = args_.k};
    kernels_.pack(terms_of(kernels_, lines_of(source, lines), words), is_a ? kernels_.rows : kernels_.columns,
                  is_a ? 1 : kernels_.unit, deal.tile(stream_, tile));
  }

  Stream& stream_;
  const OuterProductArgs& args_;
  const ProductKernels& kernels_;
  Cut words_, rows_, columns_;
  Deal a_, b_;
};

}  // namespace

void outer_product(Stream& stream, const OuterProductArgs& args) {
  if (args.m == 0 || args.n == 0 || args.k == 0) return;
  OuterProduct(stream, args).run();
}

}  // namespace rondo::kernels
