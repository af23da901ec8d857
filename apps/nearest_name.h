#pragma once
// "Did you mean": the known name that is nearest to a misspelt one.

#include <string>
#include <string_view>
#include <vector>

namespace rondo::apps {

/// The name with the fewest insertions, deletions, replacements and exchanges of neighbours, when those are
/// few enough for it to be meant; else "".
std::string nearest_name(std::string_view misspelt, const std::vector<std::string>& names);

/// ", did you mean X?" or "".
std::string did_you_mean(std::string_view misspelt, const std::vector<std::string>& names);

}  // namespace rondo::apps
