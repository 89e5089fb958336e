// Scenarios of limpet-bench on the parts of a worker, without sockets: KV below the device, and the
// scheduler under jobs that come and go.
#pragma once

namespace limpet::bench {

int spill_bench(int argc, char** argv);  // spill_bench.cpp
int serve_bench(int argc, char** argv);  // serve_bench.cpp

}  // namespace limpet::bench
