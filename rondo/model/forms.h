#pragma once
// Forms of the Transformer: the one that Rondo is made for, and the earlier ones, for comparison and for
// teaching. All give the same result within rounding; what they hold in memory differs (docs/memory.md).

#include <string_view>

namespace rondo {

/// What of attention's scores exists at one time.
enum class AttentionForm {
  vanilla,   ///< those of all queries and keys (Vaswani et al. 2017); of one device alone
  blockwise  ///< a block's (memory-efficient attention; Rabe, Staats 2021), on a ring of any length
};
const char* name_of(AttentionForm form);
AttentionForm parse_attention_form(std::string_view name);  ///< throws ArgumentError naming them

/// What of the feed-forward part exists at one time.
enum class FeedForwardForm {
  whole,     ///< that of all of the device's tokens
  blockwise  ///< a block's (Blockwise Parallel Transformer; Liu, Abbeel 2023)
};
const char* name_of(FeedForwardForm form);
FeedForwardForm parse_feed_forward_form(std::string_view name);  ///< throws ArgumentError naming them

}  // namespace rondo
