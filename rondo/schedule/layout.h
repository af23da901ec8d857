#pragma once
// Inner header of the room: a checked plan, its pieces and its documents, as make_schedule works on them.

#include <cstdint>
#include <vector>

#include "rondo/schedule/schedule.h"

namespace rondo::schedule {

/// floor(a / b) and ceil(a / b) of mathematics, b > 0; C++ rounds towards zero.
constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }

/// Throws ArgumentError when the plan contradicts itself.
void check_plan(const char* operation, const SequencePlan& plan);
void check_device(const char* operation, const SequencePlan& plan, int device);

/// Pieces of every device, of a checked plan.
std::vector<std::vector<Piece>> all_pieces(const SequencePlan& plan);

/// Documents as half-open ranges of global tokens.
class Documents {
 public:
  explicit Documents(const SequencePlan& plan);
  std::int64_t count() const { return static_cast<std::int64_t>(bounds_.size()) - 1; }
  Range operator[](std::int64_t document) const {
    return {bounds_[static_cast<std::size_t>(document)], bounds_[static_cast<std::size_t>(document) + 1]};
  }
  std::int64_t longest() const;
  /// The document that the global token is in.
  std::int64_t find(std::int64_t token) const;

 private:
  std::vector<std::int64_t> bounds_;
};

/// What a piece has of one document: consecutive local tokens, the first of them at global position `global`.
struct Segment {
  std::int64_t document = 0;
  Range local;
  std::int64_t global = 0, stride = 1;
};

/// What the piece has of the document, possibly nothing.
Segment segment_of(const Piece& piece, std::int64_t document, Range tokens);
/// All non-empty segments of a piece, by document.
std::vector<Segment> segments_of(const Piece& piece, const Documents& documents);

}  // namespace rondo::schedule
