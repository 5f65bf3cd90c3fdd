// The Python module fastalign._C: importing it registers the ops; it also answers what was built
// and which instruction set is in use. Limited API, one binary for every Python from 3.10 on.
#include <Python.h>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "direct.h"
#include "host/plans.h"

#include <cstdlib>

#if !defined(FASTALIGN_BUILD_INFO)
#define FASTALIGN_BUILD_INFO ""
#endif
#if !defined(FASTALIGN_CUDA_TARGETS)
#define FASTALIGN_CUDA_TARGETS ""
#endif

namespace {

PyObject* cpu_isa(PyObject*, PyObject*) {
  const char* error = nullptr;
  const fastalign::IsaLevel* level = fastalign::active_isa(&error);
  if (level == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, error);
    return nullptr;
  }
  return PyUnicode_FromString(level->name);
}

PyObject* cpu_isa_levels(PyObject*, PyObject*) {
  int count = 0;
  const fastalign::IsaLevel* levels = fastalign::isa_levels(&count);
  PyObject* result = PyDict_New();
  for (int i = 0; result != nullptr && i < count; ++i) {
    PyObject* supported = PyBool_FromLong(levels[i].supported ? 1 : 0);
    const bool stored =
        supported != nullptr && PyDict_SetItemString(result, levels[i].name, supported) == 0;
    Py_XDECREF(supported);
    if (!stored) {
      Py_DECREF(result);
      return nullptr;
    }
  }
  return result;
}

PyObject* set_cpu_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) {
    return nullptr;
  }
  const char* text = PyBytes_AsString(bytes);
  const char* error = text == nullptr ? nullptr : fastalign::set_active_isa(text);
  Py_DECREF(bytes);
  if (text == nullptr) {
    return nullptr;
  }
  if (error != nullptr) {
    PyErr_SetString(PyExc_ValueError, error);
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* release_memory(PyObject*, PyObject*) {
  fastalign::release_kept();
  Py_RETURN_NONE;
}

PyObject* plan_fields(PyObject*, PyObject*) {
  return PyUnicode_FromString(fastalign::host::describe_plan_fields().c_str());
}

PyObject* force_plans(PyObject*, PyObject* values) {
  if (PySequence_Size(values) != fastalign::kPlanFields) {
    PyErr_SetString(PyExc_ValueError, "force_plans takes one number for each of plan_fields()");
    return nullptr;
  }
  fastalign::ForcedPlans plans{};
  for (int i = 0; i < fastalign::kPlanFields; ++i) {
    PyObject* value = PySequence_GetItem(values, i);
    plans.values[i] = value == nullptr ? 0 : static_cast<int32_t>(PyLong_AsLong(value));
    Py_XDECREF(value);
    if (PyErr_Occurred() != nullptr) {
      return nullptr;
    }
  }
  fastalign::host::force_plans(plans);
  Py_RETURN_NONE;
}

PyObject* build_info(PyObject*, PyObject*) { return PyUnicode_FromString(FASTALIGN_BUILD_INFO); }

PyObject* cuda_targets(PyObject*, PyObject*) {
  return PyUnicode_FromString(FASTALIGN_CUDA_TARGETS);
}

// What the environment holds at this moment, without what os.environ takes to say that it holds
// nothing.
PyObject* environment(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8AndSize(name, nullptr);
  if (text == nullptr) {
    return nullptr;
  }
  const char* value = std::getenv(text);
  if (value == nullptr) {
    Py_RETURN_NONE;
  }
  return PyUnicode_DecodeFSDefault(value);
}

PyMethodDef kMethods[] = {
    {"direct", fastalign::direct, METH_VARARGS,
     "direct(name, otherwise, is_neg): a native op past torch's dispatcher, or otherwise."},
    {"environment", environment, METH_O, "The value of a variable of the environment, or None."},
    {"cpu_isa", cpu_isa, METH_NOARGS, "Name of the instruction set that the CPU kernels use."},
    {"cpu_isa_levels", cpu_isa_levels, METH_NOARGS,
     "Instruction sets built in, lowest first, each with whether this machine runs it."},
    {"set_cpu_isa", set_cpu_isa, METH_O, "Makes the CPU kernels use one of cpu_isa_levels()."},
    {"release_memory", release_memory, METH_NOARGS,
     "Gives back the memory that the CPU kernels keep from call to call."},
    {"plan_fields", plan_fields, METH_NOARGS,
     "What can be forced of launch plans: a line for each field, kernel.backend, field, values."},
    {"force_plans", force_plans, METH_O,
     "Forces plans from now on: a value for each of plan_fields(), 0 where the kernel chooses."},
    {"build_info", build_info, METH_NOARGS, "What this library was built with, in words."},
    {"cuda_targets", cuda_targets, METH_NOARGS,
     "GPU code in this library, for example 'sm_90 compute_120'; empty without CUDA."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef kModule = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "Native kernels of fastalign.",
    -1,
    kMethods,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }
