#pragma once

namespace limpet::bench {

// What one tenant's flood of jobs does to another's time to first token.
int fairness_bench(int argc, char** argv);

}  // namespace limpet::bench
