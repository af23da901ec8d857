#include "apps/nearest_name.h"

#include <algorithm>

namespace rondo::apps {

namespace {

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i)
    for (std::size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

}  // namespace

std::string nearest_name(std::string_view misspelt, const std::vector<std::string>& names) {
  std::string best;
  misspelt = misspelt.substr(0, 64);
  std::size_t least = std::max<std::size_t>(2, misspelt.size() / 3) + 1;
  for (const std::string& name : names) {
    const std::size_t edits = distance(misspelt, name);
    if (edits < least) least = edits, best = name;
  }
  return best;
}

std::string did_you_mean(std::string_view misspelt, const std::vector<std::string>& names) {
  const std::string nearest = nearest_name(misspelt, names);
  return nearest.empty() ? "" : ", did you mean " + nearest + "?";
}

}  // namespace rondo::apps
