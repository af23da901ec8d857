#include "rondo/plan/step_prices.h"

#include <algorithm>
#include <cmath>

namespace rondo {

namespace {

/// Extents in double, as prices are.
struct Extents {
  explicit Extents(const RunShape& run)
      : e(static_cast<double>(size_of(run.dtype))),
        C(static_cast<double>(run.config.width)),
        F(static_cast<double>(run.config.ffn)),
        V(static_cast<double>(run.config.vocabulary)),
        L(static_cast<double>(run.config.layers)),
        Q(static_cast<double>(run.config.q_heads * run.config.head_dim)),
        K(static_cast<double>(run.config.kv_heads * run.config.head_dim)),
        H(static_cast<double>(run.config.q_heads)) {}
  double e, C, F, V, L, Q, K, H;
};

class Pricing {
 public:
  Pricing(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens)
      : memory_(memory),
        run_(memory.run()),
        hardware_(hardware),
        x_(run_),
        c_(std::ceil(static_cast<double>(tokens) / run_.devices)) {}

  StepPrices operator()(std::int64_t tokens, double most_pairs);

 private:
  /// Seconds of products of so many multiply-adds for each token.
  double products(double multiply_adds) {
    const double seconds =
        2 * c_ * multiply_adds / (hardware_.peak(run_.dtype) * hardware_.linear_efficiency);
    p_.linear += layers_ * seconds;
    return seconds;
  }
  /// Seconds in which so many bytes are read or written.
  double bytes(double count) {
    const double seconds = count / hardware_.memory_bytes_per_second;
    p_.elementwise += layers_ * seconds;
    return seconds;
  }
  AttentionPrice attention() const;
  /// Of attention whose scores are all in memory, by the visible pairs that the schedule counts.
  AttentionPrice vanilla_attention() const;
  void price_forward();
  void price_backward();
  void price_head();
  void price_update();
  void price_exchange();
  void price_further_token(std::int64_t tokens);
  double phase(double buffer_bytes) const;

  const MemoryModel& memory_;
  const RunShape& run_;
  const Hardware& hardware_;
  Extents x_;
  double c_;
  double layers_ = 1;  ///< how often what is priced is done
  StepPrices p_;
};

AttentionPrice Pricing::vanilla_attention() const {
  const double pairs = c_ * c_, efficiency = hardware_.linear_efficiency, scores = 4 * x_.H * pairs;
  const double of_storage = 2 * x_.Q * pairs / (hardware_.peak(run_.dtype) * efficiency),
               of_singles = 2 * x_.Q * pairs / (hardware_.peak(DType::f32) * efficiency),
               pass = scores / hardware_.memory_bytes_per_second;
  // Products are written, turned into probabilities where they lie, and read.
  const double again = of_storage + 3 * pass, forward = again + of_singles + pass;
  // dP; then dV, dQ and dK.
  const double backward =
      of_storage + 3 * of_singles + 8 * pass + (run_.remat == Remat::attention ? again : 0);
  return {.forward_per_pair = forward / p_.most_pairs, .backward_per_pair = backward / p_.most_pairs};
}

AttentionPrice Pricing::attention() const {
  if (run_.attention == AttentionForm::vanilla) return vanilla_attention();
  const double peak = hardware_.peak(run_.dtype), forward = peak * hardware_.attention_efficiency;
  const double backward =
      hardware_.attention_backward_efficiency > 0 ? peak * hardware_.attention_backward_efficiency : forward;
  AttentionPrice price{
      .forward_per_pair = 4 * x_.Q / forward,
      .backward_per_pair = 10 * x_.Q / backward,  // scores and probabilities once more
      .kv_bytes_per_token = run_.exchange == Exchange::copy || run_.between_processes ? 2 * x_.K * x_.e : 0,
      .gradient_bytes_per_token = 2 * x_.K * 4};
  // Between processes a sum arrives in a place of its own: read twice, written once.
  if (run_.between_processes) price.adding_per_byte = 3 / hardware_.memory_bytes_per_second;
  return price;
}

/// Norms, rotary embedding, activation and residual stream in bytes, weights packed once a function.
void Pricing::price_forward() {
  const double weights = x_.e * 2;
  p_.forward_before = products(x_.C * (x_.Q + 2 * x_.K)) +
                      bytes(c_ * x_.e * (2 * x_.C + 2 * (x_.Q + x_.K)) + weights * x_.C * (x_.Q + 2 * x_.K));
  p_.forward_after = products(x_.C * x_.Q + 3 * x_.C * x_.F) +
                     bytes(c_ * (x_.e * (6 * x_.C + 3 * x_.F) + 12 * x_.Q) +  // and the state, float32
                           weights * x_.C * (x_.Q + 3 * x_.F));
}

void Pricing::price_backward() {
  const double weights = x_.e * 2;
  const bool none = run_.remat == Remat::none;
  if (!none)  // projections, the attention's output, gate and up
    p_.again =
        products(x_.C * (2 * x_.Q + 2 * x_.K) + 2 * x_.C * x_.F) +
        bytes(c_ * x_.e * (4 * x_.C + 2 * (x_.Q + x_.K)) + weights * x_.C * (2 * x_.Q + 2 * x_.K + 2 * x_.F));
  p_.backward_before = products(2 * (3 * x_.C * x_.F + x_.C * x_.Q)) +
                       bytes(c_ * (x_.e * (3 * x_.C + 6 * x_.F + 3 * x_.Q) + 4 * 6 * x_.C) +
                             weights * x_.C * (x_.Q + 3 * x_.F));
  p_.backward_after = products(2 * x_.C * (x_.Q + 2 * x_.K)) +
                      bytes(c_ * (x_.e * 3 * x_.C + 4 * (4 * x_.C + 4 * x_.Q + 6 * x_.K)) +
                            weights * x_.C * (x_.Q + 2 * x_.K));
}

void Pricing::price_head() {
  const bool trains = run_.purpose == Purpose::train;
  if (run_.purpose == Purpose::generate) return;  // of one token
  p_.head = products((trains ? 3 : 1) * x_.C * x_.V) +
            bytes(c_ * (4 * x_.V * (trains ? 3 : 2) + x_.e * 4 * x_.C) + 2 * x_.e * x_.C * x_.V);
}

/// Clearing gradients, their norm, AdamW, and weights rounded again.
void Pricing::price_update() {
  const auto N = static_cast<double>(memory_.total_elements());
  const double part = run_.shard == Shard::none ? 1 : 1.0 / run_.devices_in_all();
  const double rounded = run_.dtype == DType::f32 ? 0 : 6;
  const double seconds = N * (4 + 4 + part * (28 + rounded)) / hardware_.memory_bytes_per_second;
  p_.update = seconds;
  p_.embedding = bytes(c_ * 12 * x_.C);
}

/// Seconds in which each device sends every other one its part of a buffer (or the parts come together
/// again).
double Pricing::phase(double buffer_bytes) const {
  const double D = run_.devices_in_all(), part = buffer_bytes / D;
  const double near = std::min<double>(D, hardware_.node_devices);
  const Link &node = hardware_.node, &network = hardware_.network;
  double seconds = node.bytes_per_second > 0 ? part * (near - 1) / node.bytes_per_second : 0;
  if (D > near) seconds = std::max(seconds, part * (D - near) / network.bytes_per_second);
  return seconds + hardware_.slowest_link(run_.devices_in_all()).latency;
}

void Pricing::price_exchange() {
  const double D = run_.devices_in_all();
  if (D == 1) return;
  const auto N = static_cast<double>(memory_.total_elements()),
             layer = static_cast<double>(memory_.layer_elements()),
             embedding = static_cast<double>(memory_.buckets().front().size()),
             head = static_cast<double>(memory_.buckets().back().size());
  const bool trains = run_.purpose == Purpose::train;
  const Link& link = hardware_.slowest_link(run_.devices_in_all());
  const bool all = run_.shard == Shard::parameters && trains;
  const double weight = run_.shard == Shard::optimizer && run_.dtype == DType::f32 ? 4 : x_.e;
  const double share = (D - 1) / D, hop = (run_.devices - 1) * c_;
  const double passes = trains && run_.remat == Remat::layer ? 2 : 1;
  p_.sent_per_device =
      run_.devices == 1 ? 0 : x_.L * hop * (passes + (trains ? 1 : 0)) * p_.attention.kv_bytes_per_token;
  if (!trains) return;
  if (run_.devices > 1) p_.sent_per_device += x_.L * (hop + c_) * p_.attention.gradient_bytes_per_token;
  // Gradients: parts to their owners, and unless only those need them, sums back to all.
  const double phases = run_.shard == Shard::none ? 2 : 1;
  p_.sent_per_device += 4 * N * share * phases;
  if (!run_.between_processes && link.copies_itself) {
    // Every device adds up its part from the others' memory and copies their sums.
    p_.update += 12 * N / hardware_.memory_bytes_per_second;
    return;
  }
  p_.sum_layer = phases * phase(4 * layer);
  p_.sum_head = phases * phase(4 * head);
  p_.sum_embedding = phases * phase(4 * embedding);
  p_.moving_layer =
      phases * 4 * layer * share * (2 * link.busy_per_byte + 2 / hardware_.memory_bytes_per_second);
  if (all) {
    p_.gather_layer = phase(x_.e * layer);
    p_.gather_head = phase(x_.e * head);
    p_.moving_layer += x_.e * layer * share * 2 * link.busy_per_byte;
    p_.sent_per_device += x_.e * N * share * 2;
  } else if (run_.shard == Shard::optimizer) {
    p_.gather_updated = phase(weight * N);
    p_.sent_per_device += weight * N * share;
  }
}

/// All weights and the device's part of the cache are read once; parts of every layer's output are gathered.
void Pricing::price_further_token(std::int64_t tokens) {
  const double share = std::ceil(static_cast<double>(tokens) / run_.devices);
  const double weights = x_.e * (static_cast<double>(memory_.total_elements()) -
                                 x_.C * x_.V * (run_.config.tied_embedding ? 0 : 1));
  p_.further_token = (weights + x_.L * share * 2 * x_.K * x_.e) / hardware_.memory_bytes_per_second;
  if (run_.devices > 1) {
    const Link& link = hardware_.slowest_link(run_.devices);
    const double gathered = 4 * (x_.Q + x_.H) * (run_.devices - 1);
    p_.further_token += x_.L * (link.latency + gathered / link.bytes_per_second);
  }
}

StepPrices Pricing::operator()(std::int64_t tokens, double most_pairs) {
  p_.tokens = static_cast<double>(tokens);
  p_.most_pairs = most_pairs;
  p_.attention = attention();
  layers_ = x_.L;
  price_forward();
  if (run_.purpose == Purpose::train) price_backward();
  layers_ = 1;
  price_head();
  if (run_.purpose == Purpose::train) price_update();
  price_exchange();
  if (run_.purpose == Purpose::generate) price_further_token(tokens);
  return p_;
}

}  // namespace

StepPrices step_prices(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens,
                       double most_pairs) {
  return Pricing(memory, hardware, tokens)(tokens, most_pairs);
}

}  // namespace rondo
