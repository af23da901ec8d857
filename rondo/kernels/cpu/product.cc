#include "rondo/kernels/cpu/product.h"

#include <algorithm>
#include <array>

#include "rondo/kernels/cpu/dnnl_shim.h"
#include "rondo/kernels/cpu/rows.h"

namespace rondo::kernels {

namespace {

// 256 x 512 outputs run at oneDNN's full speed; smaller products give up a little of it for enough tiles to
// share out.
constexpr std::int64_t kTileRows = 256, kTileColumns = 512, kLeastTileColumns = 128, kEnoughTiles = 16;
// Terms of a sum that are widened at a time.
constexpr std::int64_t kWidenedTerms = 1024;

/// [0, extent) cut into parts of one size and a smaller last one.
struct Cut {
  std::int64_t extent = 0, part = 1;
  std::int64_t parts() const { return (extent + part - 1) / part; }
  Range range(std::int64_t index) const { return {index * part, std::min(extent, (index + 1) * part)}; }
  bool is_last(std::int64_t index) const { return index + 1 == parts(); }
  std::int64_t size(bool last) const { return range(last ? parts() - 1 : 0).size(); }
};

struct Tiles {
  Cut rows, columns;
  std::int64_t count() const { return rows.parts() * columns.parts(); }
};

Tiles tiles_of(const ProductArgs& args) {
  Tiles tiles{{args.m, kTileRows}, {args.n, kTileColumns}};
  while (tiles.count() < kEnoughTiles && tiles.columns.part > kLeastTileColumns) tiles.columns.part /= 2;
  return tiles;
}

const void* at(const void* data, DType dtype, std::int64_t offset) {
  return static_cast<const std::byte*>(data) + offset * size_of(dtype);
}
void* at(void* data, DType dtype, std::int64_t offset) {
  return static_cast<std::byte*>(data) + offset * size_of(dtype);
}

Operand part_of(const Operand& operand, std::int64_t row, std::int64_t column) {
  Operand part = operand;
  part.data = at(operand.data, operand.dtype, row * operand.row_stride + column * operand.column_stride);
  return part;
}

/// The strides of a dimension of one element mean nothing; one value for them keeps the cache small and
/// oneDNN content.
void normalise(std::int64_t rows, std::int64_t columns, std::int64_t& row_stride,
               std::int64_t& column_stride) {
  if (row_stride == 1 && column_stride != 1) {
    if (columns <= 1) column_stride = std::max<std::int64_t>(rows, 1);
  } else if (rows <= 1) {
    row_stride = std::max<std::int64_t>(columns, 1);
  }
}

ProductShape shape_of(const ProductArgs& args, std::int64_t m, std::int64_t n, std::int64_t k) {
  ProductShape shape{
      .in = args.a.dtype, .out = args.c_dtype, .accumulate = args.accumulate, .m = m, .n = n, .k = k};
  shape.a_row = args.a.row_stride, shape.a_column = args.a.column_stride;
  shape.b_row = args.b.row_stride, shape.b_column = args.b.column_stride;
  shape.c_row = args.c_row_stride;
  std::int64_t one = 1;
  normalise(m, k, shape.a_row, shape.a_column);
  normalise(k, n, shape.b_row, shape.b_column);
  normalise(m, n, shape.c_row, one);
  return shape;
}

/// Products of a whole or last tile in each direction.
using ProductTable = std::array<std::array<const Product*, 2>, 2>;

/// False where the processor lacks the dtype.
bool native_product(Stream& stream, const ProductArgs& args) {
  const Tiles tiles = tiles_of(args);
  ProductCache& cache = ProductCache::of(stream);
  ProductTable table{};
  std::int64_t scratch = 0;
  for (int last_row : {0, 1}) {
    for (int last_column : {0, 1}) {
      const Product* made = cache.find(
          shape_of(args, tiles.rows.size(last_row == 1), tiles.columns.size(last_column == 1), args.k));
      if (made == nullptr) return false;
      table[last_row][last_column] = made;
      scratch = std::max(scratch, made->scratch_bytes());
    }
  }
  stream.reserve_scratch(scratch);
  stream.pool().run(tiles.count(), [&](std::int64_t index, int worker) {
    const std::int64_t row = index / tiles.columns.parts(), column = index % tiles.columns.parts();
    const std::int64_t m = tiles.rows.range(row).begin, n = tiles.columns.range(column).begin;
    table[tiles.rows.is_last(row)][tiles.columns.is_last(column)]->execute(
        part_of(args.a, m, 0).data, part_of(args.b, 0, n).data,
        at(args.c, args.c_dtype, m * args.c_row_stride + n), stream.scratch(worker));
  });
  return true;
}

/// Copies a [rows, columns] part as float32 in the same orientation, without gaps.
Operand widened(const RowKernels& kernels, const Operand& from, Range rows, Range columns, float* to) {
  const bool by_columns = from.row_stride == 1 && from.column_stride != 1;
  const std::int64_t lines = by_columns ? columns.size() : rows.size();
  const std::int64_t length = by_columns ? rows.size() : columns.size();
  const std::int64_t line_stride = by_columns ? from.column_stride : from.row_stride;
  const auto* source = static_cast<const bfloat16*>(part_of(from, rows.begin, columns.begin).data);
  for (std::int64_t line = 0; line < lines; ++line)
    kernels.widen(source + line * line_stride, to + line * length, length);
  return {to, DType::f32, by_columns ? 1 : length, by_columns ? length : 1};
}

/// Products over pieces of the sum, [first or later piece][whole or last piece].
struct WidenedTile {
  std::int64_t m = 0, n = 0;
  ProductTable table{};
};

class WidenedProduct {
 public:
  WidenedProduct(Stream& stream, const ProductArgs& args)
      : stream_(stream), args_(args), kernels_(row_kernels(stream.isa())), tiles_(tiles_of(args)) {
    prepare();
  }
  void run() {
    stream_.pool().run(tiles_.count(), [this](std::int64_t index, int worker) { run_tile(index, worker); });
  }

 private:
  void prepare() {
    std::int64_t scratch = 0;
    for (int last_row : {0, 1}) {
      for (int last_column : {0, 1}) {
        WidenedTile& tile = table_[last_row][last_column];
        tile.m = tiles_.rows.size(last_row == 1), tile.n = tiles_.columns.size(last_column == 1);
        for (int later : {0, 1})
          for (int last : {0, 1}) {
            tile.table[later][last] = find(tile, later == 1, terms_.size(last == 1));
            scratch = std::max(scratch, tile.table[later][last]->scratch_bytes());
          }
      }
    }
    const std::int64_t m = tiles_.rows.size(false), n = tiles_.columns.size(false), k = terms_.size(false);
    a_offset_ = aligned(m * n), b_offset_ = a_offset_ + aligned(m * k),
    scratch_offset_ = b_offset_ + aligned(k * n);
    stream_.reserve_scratch(scratch_offset_ * 4 + scratch);
  }

  const Product* find(const WidenedTile& tile, bool later, std::int64_t k) {
    const bool a_turned = args_.a.row_stride == 1 && args_.a.column_stride != 1;
    const bool b_turned = args_.b.row_stride == 1 && args_.b.column_stride != 1;
    const ProductArgs piece{.m = tile.m,
                            .n = tile.n,
                            .k = k,
                            .a = {nullptr, DType::f32, a_turned ? 1 : k, a_turned ? tile.m : 1},
                            .b = {nullptr, DType::f32, b_turned ? 1 : tile.n, b_turned ? k : 1},
                            .c_row_stride = tile.n,
                            .accumulate = later};
    const Product* made = ProductCache::of(stream_).find(shape_of(piece, tile.m, tile.n, k));
    RONDO_ASSERT(made != nullptr);
    return made;
  }

  void run_tile(std::int64_t index, int worker) {
    const std::int64_t row = index / tiles_.columns.parts(), column = index % tiles_.columns.parts();
    const Range m = tiles_.rows.range(row), n = tiles_.columns.range(column);
    const WidenedTile& tile = table_[tiles_.rows.is_last(row)][tiles_.columns.is_last(column)];
    auto* c = reinterpret_cast<float*>(stream_.scratch(worker));
    for (std::int64_t piece = 0; piece < terms_.parts(); ++piece) {
      const Range k = terms_.range(piece);
      const Operand a = widened(kernels_, args_.a, m, k, c + a_offset_);
      const Operand b = widened(kernels_, args_.b, k, n, c + b_offset_);
      tile.table[piece > 0][terms_.is_last(piece)]->execute(a.data, b.data, c, c + scratch_offset_);
    }
    for (std::int64_t i = 0; i < m.size(); ++i) {
      void* to = at(args_.c, args_.c_dtype, (m.begin + i) * args_.c_row_stride + n.begin);
      store_row(kernels_, c + i * n.size(), to, args_.c_dtype, n.size(), args_.accumulate);
    }
  }

  static std::int64_t aligned(std::int64_t floats) { return (floats + 15) / 16 * 16; }

  Stream& stream_;
  const ProductArgs& args_;
  const RowKernels& kernels_;
  Tiles tiles_;
  Cut terms_{args_.k, kWidenedTerms};
  std::array<std::array<WidenedTile, 2>, 2> table_;
  std::int64_t a_offset_ = 0, b_offset_ = 0, scratch_offset_ = 0;
};

void clear(const ProductArgs& args) {
  for (std::int64_t i = 0; i < args.m; ++i) {
    auto* row = static_cast<std::byte*>(at(args.c, args.c_dtype, i * args.c_row_stride));
    std::fill_n(row, args.n * size_of(args.c_dtype), std::byte{0});
  }
}

}  // namespace

void product(Stream& stream, const ProductArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    if (!args.accumulate) clear(args);
    return;
  }
  ProductCache::of(stream).make_room();
  if (native_product(stream, args)) return;
  WidenedProduct(stream, args).run();
}

}  // namespace rondo::kernels
