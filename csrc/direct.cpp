// Torch's dispatcher reads a schema, boxes each argument and each result, and does so again for
// each tensor that an op allocates. Its code, spread over megabytes, costs a small call more than
// its work does. Arguments go from Python to the host's functions here, by their types alone.
#include "direct.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <cstring>
#include <exception>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "host/ops.h"

namespace fastalign {
namespace {

using host::MaybeTensor;
using torch::stable::Tensor;

// The stable ABI's way between Python's tensors and its own, since torch 2.14. Looked up in the
// library that torch has loaded, so that this one also loads beside an older torch.
struct Conversions {
  AOTITorchError (*from_python)(void*, AtenTensorHandle*);
  AOTITorchError (*to_python)(AtenTensorHandle, void*, void**);
  AOTITorchError (*has_storage)(AtenTensorHandle, bool*);

  bool complete() const {
    return from_python != nullptr && to_python != nullptr && has_storage != nullptr;
  }
};

const Conversions& conversions() {
  static const Conversions found = [] {
#if defined(__APPLE__)
    void* library = dlopen("libtorch_cpu.dylib", RTLD_LAZY | RTLD_NOLOAD);
#else
    void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
#endif
    Conversions all{};
    if (library != nullptr) {
      const auto find = [library](const char* name, auto*& function) {
        function =
            reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      };
      find("torch_tensor_from_pyobject", all.from_python);
      find("torch_tensor_to_pyobject", all.to_python);
      find("torch_has_storage", all.has_storage);
    }
    return all;
  }();
  return found;
}

// What a callable is bound to.
struct Bound {
  PyObject* (*run)(const Bound&, PyObject* const*);
  Py_ssize_t count;  // of arguments, a pair of sizes as two
  PyObject* otherwise;
  PyObject* is_neg;
};

// Reading: false where an argument is not of the type as it is; no Python error is left behind. The
// caller has seen to it that what stands in for a tensor is one.

bool read(const Bound& bound, PyObject* given, std::optional<Tensor>& tensor) {
  AtenTensorHandle handle = nullptr;
  PyObject* negative = PyObject_CallFunctionObjArgs(bound.is_neg, given, nullptr);
  if (negative == nullptr) {  // no tensor
    PyErr_Clear();
    return false;
  }
  Py_DECREF(negative);
  if (negative != Py_False) {
    return false;
  }
  if (conversions().from_python(given, &handle) != AOTI_TORCH_SUCCESS) {
    PyErr_Clear();
    return false;
  }
  tensor.emplace(handle);
  // Wrappers of transforms have no memory, and tensors that are known to be zero none that is
  // there.
  bool stored = false;
  return conversions().has_storage(handle, &stored) == AOTI_TORCH_SUCCESS && stored &&
         (tensor->numel() == 0 || tensor->const_data_ptr() != nullptr);
}

bool read(const Bound& bound, PyObject* given, std::optional<MaybeTensor>& tensor) {
  tensor.emplace();
  return given == Py_None || read(bound, given, *tensor);
}

bool read(const Bound&, PyObject* given, std::optional<bool>& flag) {
  flag = given == Py_True;
  return PyBool_Check(given);
}

bool read(const Bound&, PyObject* given, std::optional<int64_t>& number) {
  if (!PyLong_CheckExact(given)) {
    return false;
  }
  number = PyLong_AsLongLong(given);
  if (*number == -1 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return false;
  }
  return true;
}

bool read(const Bound&, PyObject* given, std::optional<std::string>& word) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(given) ? PyUnicode_AsUTF8AndSize(given, &size) : nullptr;
  if (text == nullptr) {
    PyErr_Clear();
    return false;
  }
  word.emplace(text, static_cast<size_t>(size));
  return true;
}

PyObject* python(const Tensor& tensor) {
  void* found = nullptr;
  if (conversions().to_python(tensor.get(), nullptr, &found) != AOTI_TORCH_SUCCESS) {
    if (PyErr_Occurred() == nullptr) {
      PyErr_SetString(PyExc_RuntimeError, "fastalign_native: torch took no result");
    }
    return nullptr;
  }
  return static_cast<PyObject*>(found);
}

template <class... Results>
PyObject* python(const std::tuple<Results...>& results) {
  PyObject* found = PyTuple_New(sizeof...(Results));
  Py_ssize_t place = 0;
  const auto put = [&](const Tensor& result) {
    PyObject* one = python(result);
    return one != nullptr && PyTuple_SetItem(found, place++, one) == 0;
  };
  if (found == nullptr ||
      !std::apply([&](const auto&... result) { return (put(result) && ...); }, results)) {
    Py_XDECREF(found);
    return nullptr;
  }
  return found;
}

const Tensor* first_tensor(const std::optional<Tensor>& first) { return &*first; }

// The op of two functions of the same type, either of which may be missing.
template <class Result, class... Arguments>
struct Op {
  using Function = Result (*)(Arguments...);

  // Null and no error: it is the turn of `otherwise`.
  template <size_t... places>
  static PyObject* run(const Bound& bound, Function cpu, Function cuda, PyObject* const* given,
                       std::index_sequence<places...>) {
    std::tuple<std::optional<Arguments>...> values;
    if (!(read(bound, given[places], std::get<places>(values)) && ...)) {
      return nullptr;
    }
    const Tensor& first = *first_tensor(std::get<0>(values));
    const Function function = first.is_cpu() ? cpu : (first.is_cuda() ? cuda : nullptr);
    if (function == nullptr) {
      return nullptr;
    }
    std::optional<Result> result;
    std::string error;
    PyThreadState* state = PyEval_SaveThread();
    try {
      result.emplace(function(std::move(*std::get<places>(values))...));
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    PyEval_RestoreThread(state);
    if (!result.has_value()) {
      PyErr_SetString(PyExc_RuntimeError, error.c_str());
      return nullptr;
    }
    return python(*result);
  }
};

template <auto cpu, auto cuda, class Result, class... Arguments>
Bound bound_to(Result (*)(Arguments...)) {
  Bound bound{};
  bound.run = [](const Bound& self, PyObject* const* given) -> PyObject* {
    return Op<Result, Arguments...>::run(self, cpu, cuda, given,
                                         std::index_sequence_for<Arguments...>());
  };
  bound.count = sizeof...(Arguments);
  return bound;
}

struct Entry {
  const char* name;
  Bound bound;
};

#if defined(FASTALIGN_WITH_CUDA)
#define FASTALIGN_CUDA_FUNCTION(name) &host::on_cuda::name
#else
#define FASTALIGN_CUDA_FUNCTION(name) nullptr
#endif
#define FASTALIGN_ENTRY(Result, name, arguments, schema) \
  {#name, bound_to<&host::name, FASTALIGN_CUDA_FUNCTION(name)>(&host::name)},
#define FASTALIGN_CUDA_ENTRY(Result, name, arguments, schema) \
  {#name, bound_to<nullptr, &host::on_cuda::name>(&host::on_cuda::name)},

const Entry kEntries[] = {FASTALIGN_OPS(FASTALIGN_ENTRY)
#if defined(FASTALIGN_WITH_CUDA)
                              FASTALIGN_CUDA_OPS(FASTALIGN_CUDA_ENTRY)
#endif
};

constexpr char kCapsule[] = "fastalign._C.direct";
constexpr Py_ssize_t kMostArguments = 16;

// The arguments as the op takes them, a sequence of sizes one after the other; their number, or -1.
Py_ssize_t spread(PyObject* const* given, Py_ssize_t count, Py_ssize_t wanted,
                  std::array<PyObject*, kMostArguments>& into) {
  Py_ssize_t found = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const bool tuple = PyTuple_Check(given[i]);
    const Py_ssize_t size = tuple ? PyTuple_Size(given[i]) : 1;
    if (found + size > wanted) {
      return -1;
    }
    for (Py_ssize_t k = 0; k < size; ++k) {
      into[static_cast<size_t>(found++)] = tuple ? PyTuple_GetItem(given[i], k) : given[i];
    }
  }
  return found;
}

PyObject* call(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  const auto& bound = *static_cast<const Bound*>(PyCapsule_GetPointer(self, kCapsule));
  std::array<PyObject*, kMostArguments> items{};
  if (spread(given, count, bound.count, items) == bound.count) {
    PyObject* result = bound.run(bound, items.data());
    if (result != nullptr || PyErr_Occurred() != nullptr) {
      return result;
    }
  }
  PyObject* arguments = PyTuple_New(count);
  for (Py_ssize_t i = 0; arguments != nullptr && i < count; ++i) {
    Py_INCREF(given[i]);
    PyTuple_SetItem(arguments, i, given[i]);
  }
  PyObject* result =
      arguments == nullptr ? nullptr : PyObject_CallObject(bound.otherwise, arguments);
  Py_XDECREF(arguments);
  return result;
}

void release(PyObject* capsule) {
  auto* bound = static_cast<Bound*>(PyCapsule_GetPointer(capsule, kCapsule));
  Py_DECREF(bound->otherwise);
  Py_DECREF(bound->is_neg);
  delete bound;
}

PyMethodDef kCall = {"native_op", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                     METH_FASTCALL, "A native op, past torch's dispatcher."};

}  // namespace

PyObject* direct(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  PyObject* otherwise = nullptr;
  PyObject* is_neg = nullptr;
  if (!PyArg_ParseTuple(arguments, "sOO", &name, &otherwise, &is_neg)) {
    return nullptr;
  }
  for (const Entry& entry : kEntries) {
    if (std::strcmp(entry.name, name) == 0 && conversions().complete()) {
      auto* bound = new Bound(entry.bound);
      Py_INCREF(otherwise);
      Py_INCREF(is_neg);
      bound->otherwise = otherwise;
      bound->is_neg = is_neg;
      PyObject* capsule = PyCapsule_New(bound, kCapsule, release);
      PyObject* found = capsule == nullptr ? nullptr : PyCFunction_NewEx(&kCall, capsule, nullptr);
      Py_XDECREF(capsule);
      return found;
    }
  }
  Py_INCREF(otherwise);
  return otherwise;
}

}  // namespace fastalign
