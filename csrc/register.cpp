// Schemas and dispatch of the native ops: the only file that knows torch's registration.
//
// fastalign/ops validates, chooses the backend and adds fake, autograd and autocast.
#include "host/ops.h"

namespace host = fastalign::host;

#define FASTALIGN_DEFINE(Result, name, arguments, schema) m.def(#name schema);
#define FASTALIGN_ON_CPU(Result, name, arguments, schema) m.impl(#name, TORCH_BOX(&host::name));
#define FASTALIGN_ON_CUDA(Result, name, arguments, schema) \
  m.impl(#name, TORCH_BOX(&host::on_cuda::name));

STABLE_TORCH_LIBRARY(fastalign_native, m){FASTALIGN_OPS(FASTALIGN_DEFINE)
                                              FASTALIGN_CPU_OPS(FASTALIGN_DEFINE)
                                                  FASTALIGN_CUDA_OPS(FASTALIGN_DEFINE)}

STABLE_TORCH_LIBRARY_IMPL(fastalign_native, CPU,
                          m){FASTALIGN_OPS(FASTALIGN_ON_CPU) FASTALIGN_CPU_OPS(FASTALIGN_ON_CPU)}
#if defined(FASTALIGN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(fastalign_native, CUDA, m) {
  FASTALIGN_OPS(FASTALIGN_ON_CUDA)
  FASTALIGN_CUDA_OPS(FASTALIGN_ON_CUDA)
}
#endif
