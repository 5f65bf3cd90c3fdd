// A native op as a Python callable that does not pass through torch's dispatcher.
#pragma once

#include <Python.h>

namespace fastalign {

// direct(name, otherwise, is_neg): a callable that runs the op, on torch 2.14 and newer; before,
// and where there is no op of that name, `otherwise` itself. That is also called where an argument
// is not what the op takes as it is: it says what is wrong, or makes it so. `is_neg` is
// torch.Tensor.is_neg.
PyObject* direct(PyObject* module, PyObject* arguments);

}  // namespace fastalign
