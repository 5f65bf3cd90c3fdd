#include "levels.h"
#define STUB(level) namespace level { \
\
Status warp_affine_backward(const WarpAffineBackwardArgs&, const Workers&){return Status::ok;} }
namespace fastalign { STUB(isa_baseline) STUB(isa_avx2) STUB(isa_avx512) }
