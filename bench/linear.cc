#include "bench/linear.h"

#include <algorithm>

#include "bench/arguments.h"
#include "bench/data.h"
#include "bench/verify.h"
#include "rondo/core/context.h"
#include "rondo/core/error.h"
#include "rondo/kernels/kernels.h"
#include "rondo/kernels/peak.h"
#include "rondo/reference/layers.h"

namespace rondo::bench {

namespace {

constexpr LinearPass kPasses[] = {LinearPass::forward, LinearPass::dx, LinearPass::dw, LinearPass::backward,
                                  LinearPass::both};

constexpr double kBudget = 2e8;  // multiplications of a comparison
enum LinearStream : std::uint64_t { kInputs = 11, kWeights, kGradients };

bool makes_y(LinearPass pass) { return pass == LinearPass::forward || pass == LinearPass::both; }
bool makes_dx(LinearPass pass) { return pass != LinearPass::forward && pass != LinearPass::dw; }
bool makes_dw(LinearPass pass) { return pass != LinearPass::forward && pass != LinearPass::dx; }

using Rows = std::vector<std::int64_t>;

class LinearWork {
 public:
  explicit LinearWork(const LinearCase& what)
      : what_(what), context_({.threads = what.threads, .isa = what.isa}) {
    x_ = make(what.dtype, what.m, what.k), w_ = make(what.dtype, what.n, what.k);
    dy_ = make(what.dtype, what.m, what.n), y_ = make(what.dtype, what.m, what.n);
    dx_ = make(what.dtype, what.m, what.k), dw_ = make(DType::f32, what.n, what.k);
    fill_drawn(x_, kInputs), fill_drawn(w_, kWeights), fill_drawn(dy_, kGradients);
    if (!what.packed) return;
    forward_weight_ = pack(kernels::WeightUse::forward);
    input_weight_ = pack(kernels::WeightUse::backward_input);
  }

  void run(LinearPass pass, int repeats) {
    Stream& stream = context_.stream;
    for (int n = 0; n < repeats; ++n) {
      if (makes_y(pass)) run_forward();
      if (makes_dx(pass)) run_backward_input();
      if (makes_dw(pass)) kernels::linear_backward_weight(stream, dy_, x_, dw_);
    }
  }

  /// Runs once and compares rows of tokens of y and dx, and rows of weights of dw.
  double verified_error(LinearPass pass) {
    kernels::fill_zero(context_.stream, dw_);
    run(pass, 1);
    const auto rows = [](std::int64_t size, std::int64_t cost_of_row) {
      return sampled(size, static_cast<std::int64_t>(kBudget / static_cast<double>(cost_of_row)));
    };
    const Rows tokens = rows(what_.m, what_.n * what_.k), weights = rows(what_.n, what_.m * what_.k);
    double error = 0;
    if (makes_y(pass)) error = std::max(error, error_of_y(tokens));
    if (makes_dx(pass)) error = std::max(error, error_of_dx(tokens));
    if (makes_dw(pass)) error = std::max(error, error_of_dw(weights));
    require_small(error, what_.dtype, "the linear layer");
    return error;
  }

  double peak(std::chrono::milliseconds time) {
    return kernels::measure_peak_flops(context_.stream, what_.dtype, time);
  }

 private:
  Tensor make(DType dtype, std::int64_t rows, std::int64_t columns) {
    memory_.push_back(context_.arena.allocate(Entry::attention, rows * columns * size_of(dtype), "bench"));
    return memory_.back().tensor(dtype, rows, 1, columns);
  }
  kernels::PackedWeight pack(kernels::WeightUse use) {
    const std::int64_t bytes = kernels::packed_weight_bytes(what_.isa, what_.dtype, what_.n, what_.k, use);
    memory_.push_back(context_.arena.allocate(Entry::compute_weights, bytes, "bench"));
    return kernels::pack_weight(context_.stream, w_, use, memory_.back().data());
  }
  void run_forward() {
    constexpr auto store = kernels::Store::overwrite;
    what_.packed ? kernels::linear_forward(context_.stream, x_, forward_weight_, y_, store)
                 : kernels::linear_forward(context_.stream, x_, w_, y_, store);
  }
  void run_backward_input() {
    constexpr auto store = kernels::Store::overwrite;
    what_.packed ? kernels::linear_backward_input(context_.stream, dy_, input_weight_, dx_, store)
                 : kernels::linear_backward_input(context_.stream, dy_, w_, dx_, store);
  }
  static std::vector<double> rows_of(const Tensor& matrix, const Rows& rows) {
    std::vector<double> values;
    for (const std::int64_t row : rows) {
      const auto one = reference::to_doubles(matrix.slice({row, row + 1}));
      values.insert(values.end(), one.begin(), one.end());
    }
    return values;
  }

  double error_of_y(const Rows& tokens) const {
    Comparison comparison;
    comparison.add(rows_of(y_, tokens),
                   reference::linear_forward(rows_of(x_, tokens), reference::to_doubles(w_),
                                             {static_cast<std::int64_t>(tokens.size()), what_.n, what_.k}));
    return comparison.relative();
  }
  double error_of_dx(const Rows& tokens) const {
    Comparison comparison;
    const reference::LinearShape shape{static_cast<std::int64_t>(tokens.size()), what_.n, what_.k};
    comparison.add(rows_of(dx_, tokens),
                   reference::linear_backward(rows_of(x_, tokens), reference::to_doubles(w_),
                                              rows_of(dy_, tokens), shape)
                       .dx_TK);
    return comparison.relative();
  }
  double error_of_dw(const Rows& weights) const {
    // The gradients of some outputs are those of a layer that has no others.
    std::vector<double> dy;
    for (std::int64_t t = 0; t < what_.m; ++t) {
      const auto row = reference::to_doubles(dy_.slice({t, t + 1}));
      for (const std::int64_t column : weights) dy.push_back(row[static_cast<std::size_t>(column)]);
    }
    Comparison comparison;
    const reference::LinearShape shape{what_.m, static_cast<std::int64_t>(weights.size()), what_.k};
    comparison.add(
        rows_of(dw_, weights),
        reference::linear_backward(reference::to_doubles(x_), rows_of(w_, weights), dy, shape).dw_NK);
    return comparison.relative();
  }

  LinearCase what_;
  Context context_;
  std::vector<Buffer> memory_;
  Tensor x_, w_, dy_, y_, dx_, dw_;
  kernels::PackedWeight forward_weight_, input_weight_;
};

}  // namespace

const char* name_of(LinearPass pass) {
  switch (pass) {
    case LinearPass::forward:
      return "forward";
    case LinearPass::dx:
      return "dx";
    case LinearPass::dw:
      return "dw";
    case LinearPass::backward:
      return "backward";
    case LinearPass::both:
      return "both";
  }
  return "unknown";
}

std::vector<LinearPass> parse_linear_passes(std::string_view option, std::string_view text) {
  std::vector<LinearPass> passes;
  for (const std::string& word : parse_list(option, text)) {
    const auto found = std::find_if(std::begin(kPasses), std::end(kPasses),
                                    [&](LinearPass pass) { return word == name_of(pass); });
    check_argument(found != std::end(kPasses), "bench",
                   "{}: expected forward, dx, dw, backward or both, got '{}'", option, word);
    passes.push_back(*found);
  }
  return passes;
}

double linear_flops(LinearPass pass, const LinearCase& what) {
  const int products = (makes_y(pass) ? 1 : 0) + (makes_dx(pass) ? 1 : 0) + (makes_dw(pass) ? 1 : 0);
  return 2.0 * products * static_cast<double>(what.m) * static_cast<double>(what.n) *
         static_cast<double>(what.k);
}

Row bench_linear(const LinearCase& what, LinearPass pass, const MeasureOptions& options) {
  LinearWork work(what);
  const double error = work.verified_error(pass), flops = linear_flops(pass, what);
  const Runs runs = measure(options, {[&](int repeats) { work.run(pass, repeats); }}, [&] {
                      return work.peak(options.peak_time);
                    }).front();
  return with_rates(
      {.bench = "linear",
       .pass = name_of(pass),
       .dtype = short_name(what.dtype),
       .threads = what.threads,
       .isa = kernels::tier_name(what.isa),
       .max_rel_error = error,
       .more = {{"m", what.m}, {"n", what.n}, {"k", what.k}, {"weights", what.packed ? "packed" : "plain"}}},
      runs, flops);
}

}  // namespace rondo::bench
