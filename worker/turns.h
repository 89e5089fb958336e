// Whose prompts go first: tenants by the rows that they have had here. Pure and deterministic.
//
// A tenant that has had fewer rows than others goes before them until it has had as many, so who
// asks at times does not wait for the prompts of who always has some. What it may be behind is
// bounded, or one who returns after a day would shut the others out for long. The broker decides
// by weights whose jobs come here; among those that are here tenants are equal.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>

namespace limpet::worker {

class Turns {
 public:
  explicit Turns(int64_t most_behind) : most_behind_(most_behind) {}  // rows

  // More than most_behind below who has had most counts as just so much.
  int64_t had(uint64_t tenant) const;
  void charge(uint64_t tenant, int64_t rows);
  size_t remembered() const { return had_.size(); }  // tenants; none that is behind by the most

 private:
  int64_t most_behind_;
  int64_t most_ = 0;  // that any tenant has had
  std::map<uint64_t, int64_t> had_;
};

}  // namespace limpet::worker
