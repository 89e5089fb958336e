// A look at a store's write-ahead log before SQLite recovers from it.
//
// SQLite reads the log up to the first frame whose checksum is wrong and forgets the rest: right
// after a power loss, when the rest is the one transaction that was never acknowledged, but a
// flipped bit would cost every commit after it without a word. Here a frame, or the log's header,
// that the flip of one certain bit explains is put right in the file. One that several bits would
// explain, or that commits follow which a power loss cannot explain, is damage. Only under the
// folder's lock, without a connection.
#pragma once
#include <string>
#include <vector>

namespace limpet::broker {

struct WalCheck {
  std::string damage;               // "frame 12"; empty: what is missing was never acknowledged
  std::vector<std::string> mended;  // each with its place
};

// Of the file at `path`; one that is not there is fine. Throws StoreError: it cannot be read or
// put right.
WalCheck check_wal(const std::string& path);

}  // namespace limpet::broker
