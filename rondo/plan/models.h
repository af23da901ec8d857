#pragma once
// Shapes of well-known models, for plans without a file.

#include <string>
#include <string_view>
#include <vector>

#include "rondo/model/config.h"

namespace rondo {

struct NamedModel {
  std::string name, title;
  ModelConfig config;
};

/// From 1 to 70 billion parameters, by name.
const std::vector<NamedModel>& named_models();
/// Null when there is none of that name.
const NamedModel* find_named_model(std::string_view name);

}  // namespace rondo
