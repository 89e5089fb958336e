// Scenarios of limpet-bench on the broker. They print JSON lines and return the exit status.
#pragma once

namespace limpet::bench {

int broker_bench(int argc, char** argv);    // a real broker, a worker double, a client
int rawstore_bench(int argc, char** argv);  // the store alone

}  // namespace limpet::bench
