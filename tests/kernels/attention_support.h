#pragma once
// Cases of attention for tests: inputs, tiles and settings that both the kernels and the reference run.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/core/random.h"
#include "rondo/kernels/cpu/tier.h"
#include "rondo/kernels/kernels.h"
#include "rondo/reference/attention.h"
#include "rondo/reference/convert.h"

namespace rondo::attention_test {

/// The tiers that were built and that this processor can run.
inline std::vector<Isa> tiers() {
  std::vector<Isa> found;
  for (const Isa isa : kEveryIsa)
    if (isa <= detected_isa() && kernels::tier(isa).name == std::string(name_of(isa))) found.push_back(isa);
  return found;
}

/// A tensor with its memory. `gap` puts unused elements behind each head and each token: NaN, which must
/// neither be read nor overwritten.
class Array {
 public:
  Array(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim, std::int64_t gap = 0)
      : bytes_(static_cast<std::size_t>(tokens * (heads * (dim + gap) + gap) * size_of(dtype) + 1)) {
    std::fill(bytes_.begin(), bytes_.end(), std::byte{0xff});
    tensor = {bytes_.data(), dtype, tokens, heads, dim, heads * (dim + gap) + gap, dim + gap};
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void fill(double value) {
    reference::from_doubles(std::vector<double>(static_cast<std::size_t>(tensor.elements()), value), tensor);
  }
  void make_positive() {
    std::vector<double> values = doubles();
    for (double& x : values) x = std::abs(x);
    reference::from_doubles(values, tensor);
  }
  std::vector<double> doubles() const { return reference::to_doubles(tensor); }
  /// How many bytes still have the filling of unused elements.
  std::int64_t untouched() const { return std::count(bytes_.begin(), bytes_.end(), std::byte{0xff}); }

 private:
  std::vector<std::byte> bytes_;

 public:
  Tensor tensor;
};

struct Case {
  std::int64_t T = 0, S = 0, H = 1, G = 1, D = 8, E = 8;
  DType dtype = DType::f32;
  std::vector<Tile> tiles{};  // empty: one tile of everything
  kernels::AttentionParams params{};
  std::int64_t gap = 0;
  std::uint64_t seed = 1;
  int threads = 1;
};

inline Case completed(Case c) {
  if (c.tiles.empty()) c.tiles = {{.q = {0, c.T}, .k = {0, c.S}}};
  if (c.params.scale == 1) c.params.scale = 1 / std::sqrt(static_cast<float>(c.D));
  return c;
}

struct Inputs {
  explicit Inputs(const Case& c)
      : q(c.dtype, c.T, c.H, c.D, c.gap),
        k(c.dtype, c.S, c.G, c.D, c.gap),
        v(c.dtype, c.S, c.G, c.E, c.gap),
        dout(c.dtype, c.T, c.H, c.E, c.gap) {
    std::uint64_t stream = 0;
    for (Array* array : {&q, &k, &v, &dout}) reference::fill_standard_normal(array->tensor, c.seed, stream++);
  }
  Array q, k, v, dout;
};

/// The tile that lets query i see key j, or null.
inline const Tile* tile_of(const Case& c, std::int64_t i, std::int64_t j) {
  for (const Tile& t : c.tiles)
    if (i >= t.q.begin && i < t.q.end && j >= t.k.begin && j < t.k.end &&
        t.band.allows(i - t.q.begin, j - t.k.begin))
      return &t;
  return nullptr;
}

inline reference::AttentionProblem problem_of(const Case& c, const Inputs& in) {
  reference::AttentionProblem p{.q_tokens = c.T,
                                .k_tokens = c.S,
                                .q_heads = c.H,
                                .kv_heads = c.G,
                                .qk_dim = c.D,
                                .v_dim = c.E,
                                .scale = c.params.scale,
                                .softcap = c.params.softcap,
                                .q_THD = in.q.doubles(),
                                .k_SGD = in.k.doubles(),
                                .v_SGE = in.v.doubles(),
                                .visible = {},
                                .keep = {},
                                .bias = {}};
  p.visible = [&c](std::int64_t i, std::int64_t j) { return tile_of(c, i, j) != nullptr; };
  const kernels::Dropout drop = c.params.dropout;
  if (drop.probability > 0) {
    p.keep = [&c, drop](std::int64_t head, std::int64_t i, std::int64_t j) {
      const Tile* t = tile_of(c, i, j);
      if (t == nullptr) return 1.0;
      const std::uint32_t bits =
          dropout_bits(drop.key, static_cast<std::uint32_t>(t->sequence), static_cast<std::uint32_t>(head),
                       static_cast<std::uint32_t>(t->q_position + (i - t->q.begin) * t->stride),
                       static_cast<std::uint32_t>(t->k_position + (j - t->k.begin) * t->stride));
      const double p_drop = drop.probability;
      return bits < p_drop * 0x1p32 ? 0.0 : 1 / (1 - p_drop);
    };
  }
  return p;
}

/// A context and a state with its memory.
struct Device {
  Device(const Case& c, Isa isa)
      : context({.threads = c.threads, .isa = isa}),
        memory(static_cast<std::size_t>(kernels::attention_state_elements(c.T, c.H, c.E))),
        state{memory.data(), c.T, c.H, c.E} {
    kernels::attention_state_clear(context.stream, state);
  }
  Stream& stream() { return context.stream; }
  Context context;
  std::vector<float> memory;
  kernels::AttentionState state;
};

struct Output {
  std::vector<double> out, lse;
};

inline void add_tiles(Device& device, const Case& c, const Inputs& in, std::span<const Tile> tiles) {
  kernels::attention_forward(device.stream(), {.q_THD = in.q.tensor,
                                               .k_SGD = in.k.tensor,
                                               .v_SGE = in.v.tensor,
                                               .tiles = tiles,
                                               .params = c.params,
                                               .state = device.state});
}

inline Output finish(Device& device, const Case& c, Array& out, std::vector<float>& lse) {
  lse.assign(static_cast<std::size_t>(c.T * c.H), 7.0f);
  kernels::attention_state_finish(device.stream(), device.state, out.tensor, lse.data());
  return {out.doubles(), {lse.begin(), lse.end()}};
}

inline Output forward(const Case& c, const Inputs& in, Isa isa) {
  Device device(c, isa);
  add_tiles(device, c, in, c.tiles);
  Array out(c.dtype, c.T, c.H, c.E, c.gap);
  std::vector<float> lse;
  return finish(device, c, out, lse);
}

struct Gradients {
  std::vector<double> dq, dk, dv;
};

/// Forward, delta and backward, as the ring runs them.
inline Gradients backward(const Case& c, const Inputs& in, Isa isa) {
  Device device(c, isa);
  add_tiles(device, c, in, c.tiles);
  Array out(c.dtype, c.T, c.H, c.E, c.gap);
  std::vector<float> lse, delta(static_cast<std::size_t>(c.T * c.H));
  finish(device, c, out, lse);
  kernels::attention_delta(device.stream(), in.dout.tensor, out.tensor, delta.data());
  Array dq(DType::f32, c.T, c.H, c.D, c.gap), dk(DType::f32, c.S, c.G, c.D, c.gap),
      dv(DType::f32, c.S, c.G, c.E, c.gap);
  for (Array* array : {&dq, &dk, &dv}) array->fill(0);
  kernels::attention_backward(device.stream(), {.q_THD = in.q.tensor,
                                                .k_SGD = in.k.tensor,
                                                .v_SGE = in.v.tensor,
                                                .dout_THE = in.dout.tensor,
                                                .lse_HT = lse.data(),
                                                .delta_HT = delta.data(),
                                                .tiles = c.tiles,
                                                .params = c.params,
                                                .dq_THD = dq.tensor,
                                                .dk_SGD = dk.tensor,
                                                .dv_SGE = dv.tensor});
  return {dq.doubles(), dk.doubles(), dv.doubles()};
}

inline double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double x : values)
    if (std::isfinite(x)) most = std::max(most, std::abs(x));
  return most;
}
/// Largest difference, in units of the expected values' largest magnitude or of `floor`, whichever is larger.
inline double error_of(const std::vector<double>& expected, const std::vector<double>& got, double floor) {
  return reference::max_difference(expected, got) / std::max(largest(expected), floor);
}

// The bounds of the accuracy contract. Where all results nearly cancel, the rounding of the terms remains:
// `floor` is their size.
inline double forward_bound(DType dtype) { return dtype == DType::f32 ? 2e-6 : 0x1p-8; }
inline double gradient_bound(DType dtype) { return dtype == DType::f32 ? 1e-5 : 0x1p-7; }

/// Of the lse, in absolute terms. Where pairs of bfloat16 are multiplied, the sum behind it is of rounded
/// probabilities, each wrong by up to 2^-9 of itself, made with a shorter exponential (8e-5).
inline double lse_bound(DType dtype, Isa isa) {
  return dtype == DType::bf16 && isa == Isa::avx512_bf16 ? 0x1p-9 + 1e-4 : 2e-6;
}

/// What bfloat16's errors are measured by: the outputs, or what would come out of the values' magnitudes.
/// Rounded probabilities are each wrong by a part of themselves, and a few random values may cancel.
enum class Measure { outputs, magnitudes };

/// Empty when the kernels agree with the reference, else what differs.
inline std::string forward_failure(const Case& incomplete, Isa isa, Measure measure = Measure::outputs) {
  const Case c = completed(incomplete);
  const Inputs in(c);
  reference::AttentionProblem problem = problem_of(c, in);
  const reference::AttentionResult expected = reference::attention_forward(problem);
  const Output got = forward(c, in, isa);
  double floor = 1e-3;
  if (c.dtype == DType::bf16 && measure == Measure::magnitudes) {
    for (double& v : problem.v_SGE) v = std::abs(v);
    floor = std::max(floor, largest(reference::attention_forward(problem).out_THE));
  }
  const double out = error_of(expected.out_THE, got.out, floor), lse = error_of(expected.lse_HT, got.lse, 1);
  if (out <= forward_bound(c.dtype) && lse <= lse_bound(c.dtype, isa)) return "";
  return fmt::format("{} T {} S {} H {} G {} D {} E {} {}: out {:.3g}, lse {:.3g}", name_of(isa), c.T, c.S,
                     c.H, c.G, c.D, c.E, name_of(c.dtype), out, lse);
}

/// Where dP and delta nearly cancel, dQ and dK are as wrong as delta is rounded: out's storage rounds sum
/// |dout * out| by 2^-9 (bfloat16); float32 arithmetic by a few 2^-24.
inline double cancellation(const Case& c, const Inputs& in, const std::vector<double>& out) {
  const std::vector<double> dout = in.dout.doubles();
  double most = 0;
  for (std::size_t row = 0; row < out.size(); row += static_cast<std::size_t>(c.E)) {
    double sum = 0;
    for (std::size_t e = row; e < row + static_cast<std::size_t>(c.E); ++e) sum += std::abs(dout[e] * out[e]);
    most = std::max(most, sum);
  }
  const double rounding = c.dtype == DType::f32 ? 0x1p-21 : 0x1p-9;
  return 1e-30 + rounding * most * std::abs(c.params.scale) *
                     std::max(largest(in.q.doubles()), largest(in.k.doubles()));
}

/// Measure::magnitudes: dK is a sum over all queries of its heads, whose roundings of delta add up as a
/// random walk does.
inline std::string gradient_failure(const Case& incomplete, Isa isa, Measure measure = Measure::outputs) {
  const Case c = completed(incomplete);
  const Inputs in(c);
  const reference::AttentionProblem problem = problem_of(c, in);
  const auto expected = reference::attention_backward(problem, in.dout.doubles());
  const Gradients got = backward(c, in, isa);
  const double bound = gradient_bound(c.dtype);
  const double floor = cancellation(c, in, reference::attention_forward(problem).out_THE) / bound;
  const double queries =
      measure == Measure::magnitudes ? static_cast<double>(std::max<std::int64_t>(1, c.T * c.H / c.G)) : 1;
  const double dq = error_of(expected.dq_THD, got.dq, floor),
               dk = error_of(expected.dk_SGD, got.dk, floor * std::sqrt(queries)),
               dv = error_of(expected.dv_SGE, got.dv, 1e-3);
  if (dq <= bound && dk <= bound && dv <= bound) return "";
  return fmt::format("{} T {} S {} H {} G {} D {} E {} {}: dq {:.3g}, dk {:.3g}, dv {:.3g}", name_of(isa),
                     c.T, c.S, c.H, c.G, c.D, c.E, name_of(c.dtype), dq, dk, dv);
}

/// Cuts [0, n) at random places into ranges of `least` to `most`; some are left out when `holes`.
inline std::vector<Range> random_cuts(std::mt19937_64& random, std::int64_t n, std::int64_t most) {
  std::vector<Range> ranges;
  for (std::int64_t at = 0; at < n;) {
    const std::int64_t size = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most));
    ranges.push_back({at, std::min(at + size, n)});
    at += size;
  }
  return ranges;
}

inline Band random_band(std::mt19937_64& random, std::int64_t reach) {
  const auto pick = [&] {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(2 * reach + 1)) - reach;
  };
  switch (random() % 5) {
    case 0:
      return {};
    case 1:
      return {.hi = pick()};
    case 2:
      return {.lo = pick()};
    case 3: {
      const std::int64_t lo = pick();
      return {lo, lo + static_cast<std::int64_t>(random() % 20)};
    }
    default:
      return {pick(), pick()};  // half of these allow nothing
  }
}

/// Disjoint tiles of any size with bands, positions and sequences; about a sixth of the rectangles hold none.
inline std::vector<Tile> random_tiles(std::uint64_t seed, std::int64_t T, std::int64_t S, std::int64_t most) {
  std::mt19937_64 random(seed);
  std::vector<Tile> tiles;
  for (const Range q : random_cuts(random, T, most)) {
    for (const Range k : random_cuts(random, S, most)) {
      if (random() % 6 == 0) continue;
      tiles.push_back({.q = q,
                       .k = k,
                       .band = random_band(random, std::max(q.size(), k.size())),
                       .q_position = static_cast<std::int64_t>(random() % 1000),
                       .k_position = static_cast<std::int64_t>(random() % 1000),
                       .stride = 1 + static_cast<std::int64_t>(random() % 4),
                       .sequence = static_cast<std::int64_t>(random() % 5)});
    }
  }
  if (tiles.empty()) tiles.push_back({.q = {0, 0}, .k = {0, 0}});
  return tiles;
}

}  // namespace rondo::attention_test
