#pragma once
// AdamW's moments as files of a checkpoint. Each device writes its parts of all buckets (model/parameters.h),
// each cut at the bounds of parameters: first_moment.NAME is all of a parameter's, first_moment.NAME[a:b] its
// elements from a up to b. So a file does not depend on how parameters lie in memory, and a ring of any other
// number of devices finds what it needs.

#include <array>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rondo/io/safetensors.h"
#include "rondo/model/parameters.h"

namespace rondo {

enum class Moment { first, second };
inline constexpr std::array<Moment, 2> kMoments{Moment::first, Moment::second};

/// "optimizer.safetensors" of one device, "optimizer-00002-of-00004.safetensors" of several.
std::string moments_file(int devices, int device);

/// Yields a device's part (owned_part) of a bucket.
using MomentParts = std::function<std::span<const float>(Moment, std::size_t bucket)>;

/// A device's place in the ring.
struct RingPlace {
  int devices = 1, device = 0;
};

/// Writes moments_file() into `folder`. A device of which all parts are empty writes none.
std::optional<FileStamp> save_moments(const std::filesystem::path& folder, const ParameterTable& table,
                                      RingPlace place, const MomentParts& parts, FileSystem& files);

/// The moments of a checkpoint, in however many files. The constructor checks that every element of every
/// parameter is there once; IoError names what is missing, double or not of this model.
class MomentFiles {
 public:
  /// The table outlives it.
  MomentFiles(const std::filesystem::path& folder, const ParameterTable& table);

  /// Fills `out` with the elements `flat` of a flat buffer; padding becomes zero.
  void read(Moment moment, const Range& flat, std::span<float> out) const;

 private:
  struct Piece {
    Range elements;  // of the parameter
    const SafetensorsTensor* tensor;
  };
  void add(const SafetensorsTensor& tensor, const std::filesystem::path& file);
  void check_cover(Moment moment, std::size_t parameter);
  std::vector<Piece>& pieces_of(Moment moment, std::size_t parameter) {
    return pieces_[static_cast<std::size_t>(moment)][parameter];
  }

  std::filesystem::path folder_;
  const ParameterTable* table_;
  std::vector<SafetensorsFile> files_;
  std::array<std::vector<std::vector<Piece>>, 2> pieces_;  // by moment and parameter, in order
};

}  // namespace rondo
