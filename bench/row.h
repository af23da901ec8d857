#pragma once
// What a benchmark says: one row, as a line of a Markdown table or as a JSON object.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rondo::bench {

/// A number, a word, or nothing where the column does not apply.
using Value = std::variant<std::monostate, std::int64_t, double, std::string>;

/// A column beyond those that every row has. `digits` are the significant ones in a table.
struct Column {
  std::string name;
  Value value;
  int digits = 4;
};

/// Columns left empty are null in JSON and absent from tables.
struct Row {
  std::string bench;
  Value pass{}, dtype{}, head_dim{}, heads{}, kv_heads{}, ctx{}, mask{}, layout{};
  std::int64_t devices = 1, threads = 1;       ///< threads of each device
  std::string isa;                             ///< the tier that ran
  double seconds_median = 0, seconds_min = 0;  ///< of the work once
  std::int64_t runs = 0;
  Value cpu_share{};  ///< processor time over seconds and threads (at most one a processor): 1 undisturbed
  Value gflops{}, peak_gflops{},
      fraction_of_peak{};      ///< 1e9 FLOP/s; the peak of all devices' threads together
  Value max_rel_error{};       ///< largest |error| against the reference over its largest |value|
  std::vector<Column> more{};  ///< behind the common ones; every row of a benchmark has the same
};

/// The row as one JSON object without a line end; what is not finite is null.
std::string json_line(const Row& row);

/// The two lines that open a Markdown table of such rows, and a row of it; each line with its end.
std::string table_head(const Row& row);
std::string table_row(const Row& row);

}  // namespace rondo::bench
