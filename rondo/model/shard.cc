#include "rondo/model/shard.h"

#include "rondo/core/error.h"

namespace rondo {

const char* name_of(Shard shard) {
  return shard == Shard::none ? "none" : shard == Shard::optimizer ? "optimizer" : "parameters";
}

Shard parse_shard(std::string_view name) {
  for (const Shard shard : {Shard::none, Shard::optimizer, Shard::parameters})
    if (name == name_of(shard)) return shard;
  argument_error("shard", "expected none, optimizer or parameters, got '{}'", name);
}

}  // namespace rondo
