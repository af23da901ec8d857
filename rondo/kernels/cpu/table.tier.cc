// The table of one tier (cpu/tier.h), and the parts of it that only tests call.

#include "rondo/kernels/cpu/attention.tier.h"
#include "rondo/kernels/cpu/attention_parts.tier.h"

#define RONDO_TEXT_OF(x) #x
#define RONDO_TEXT(x) RONDO_TEXT_OF(x)

namespace rondo::kernels::RONDO_TIER {
namespace {

void dropout_words(const DropoutRule& rule, std::uint32_t sequence, std::uint32_t head,
                   const std::uint32_t* q_positions, std::uint32_t key_position, std::uint32_t* words) {
  DropoutLanes lanes;
  lanes.head = head;
  lanes.sequence = sequence;
  for (i64 lane = 0; lane < kTile; ++lane) lanes.q_position[lane] = q_positions[lane];
  for (i64 lane = 0; lane < kTile; lane += kLanes)
    store(words + lane, dropout_word(rule, lanes, lane, key_position));
}

void exp2_all(float* x) {
  for (i64 lane = 0; lane < kTile; lane += kLanes) store(x + lane, exp2(load(x + lane)));
}
void tanh_all(float* x) {
  for (i64 lane = 0; lane < kTile; lane += kLanes) store(x + lane, tanh(load(x + lane)));
}

}  // namespace

extern const Tier kTable;
const Tier kTable = {.name = RONDO_TEXT(RONDO_TIER),
                     .lanes = kLanes,
                     .attention_forward_scratch = attention_forward_scratch,
                     .attention_forward = attention_forward,
                     .attention_backward_scratch = attention_backward_scratch,
                     .attention_backward = attention_backward,
                     .attention_decode_scratch = attention_decode_scratch,
                     .attention_decode = attention_decode,
                     .dropout_words = dropout_words,
                     .exp2 = exp2_all,
                     .tanh = tanh_all};

}  // namespace rondo::kernels::RONDO_TIER
