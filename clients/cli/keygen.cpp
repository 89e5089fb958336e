// limpet keygen: a new key pair.
#include <cstdio>

#include "clients/cli/commands.h"
#include "clients/cli/print.h"
#include "keys/keys.h"

namespace limpet::client {

int keygen(const KeygenOptions& options) {
  if (options.file.empty()) return fail("a key needs a name: limpet keygen alice");
  try {
    const keys::KeyPair pair = keys::draw();
    keys::write(options.file, pair);
    std::printf("%s\n", pair.public_key.c_str());
    return 0;
  } catch (const keys::KeyError& e) {
    return fail(e.what());
  }
}

}  // namespace limpet::client
