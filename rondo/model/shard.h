#pragma once
// What of a model's state is divided over the devices.

#include <string_view>

namespace rondo {

/// What a device holds its own part of, and no more. All give the same bits where a step is one sequence.
enum class Shard {
  none,       ///< nothing: every device has all of the model's state
  optimizer,  ///< AdamW's moments, and master weights where passes read others (stage 1)
  parameters  ///< parameters and gradients too: layers are gathered ahead of their use (stage 3)
};
const char* name_of(Shard shard);
Shard parse_shard(std::string_view name);  ///< throws ArgumentError naming them

}  // namespace rondo
