// Exact causal attention over 4096 tokens, cut over a ring of four devices.
#include <rondo/rondo.h>

#include <cstdio>
#include <vector>

int main() {
  using namespace rondo;
  run_ring({.devices = 4}, [](Context& context, Communicator& communicator) {
    RingAttention ring(context, communicator, {.q_heads = 8, .kv_heads = 2, .qk_dim = 64, .v_dim = 64},
                       Exchange::copy);
    ring.prepare({.tokens = 4096, .devices = 4, .layout = Layout::zigzag}, {.causal = true});
    const auto T = ring.tokens();  // this device's share: 1024
    std::vector<float> q(T * 8 * 64, 1), k(T * 2 * 64, 1), v(T * 2 * 64, 1), out(T * 8 * 64), lse(8 * T);
    ring.forward({.q_THD = view(q.data(), DType::f32, T, 8, 64),
                  .k_TGD = view(k.data(), DType::f32, T, 2, 64),
                  .v_TGE = view(v.data(), DType::f32, T, 2, 64),
                  .out_THE = view(out.data(), DType::f32, T, 8, 64),
                  .lse_HT = lse.data(),
                  .params = {.scale = 0.125f}});
    if (context.device == 0) std::printf("%g %g, hops %d\n", out[0], lse[0], int(ring.counters().kv_hops));
  });
}
