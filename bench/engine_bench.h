// Scenarios of limpet-bench that run on the engine alone. Each parses its own flags, prints JSON
// lines and returns the exit status; what cannot run throws std::runtime_error.
#pragma once

namespace limpet::bench {

int turn2_bench(int argc, char** argv);   // a second turn on resident KV against a re-prefill
int decode_bench(int argc, char** argv);  // decode steps, one begun ahead of the host
int prefill_bench(int argc, char** argv);   // a long prompt
int copyback_bench(int argc, char** argv);  // KV through the host at every step, as a baseline
int bucket_bench(int argc, char** argv);  // what a bucket's padding and its change cost
int attention_bench(int argc, char** argv);  // paged attention alone; attention_bench.cpp
int cpu_bench(int argc, char** argv);      // the CPU against its own memory; cpu_bench.cpp
int prefill_bench(int argc, char** argv);  // chunks of a prompt
int tokenize_bench(int argc, char** argv);  // text to ids; tokenize_bench.cpp

}  // namespace limpet::bench
