// What a client notices when the worker of its running job leaves or dies.
#pragma once

namespace limpet::bench {

int handover_bench(int argc, char** argv);

}  // namespace limpet::bench
