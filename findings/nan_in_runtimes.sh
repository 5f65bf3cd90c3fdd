#!/bin/sh
# A NaN in the input of an ONNX model does not reach its output, or turns a comparison true:
#   OpenVINO 2026.4.1 (CPU, f32): Relu, Clip and Max give 0, Greater and GreaterOrEqual are true;
#   onnxruntime 1.32.0: ReduceMax of (1, NaN, 0.5) is 1;
#   OpenCV 5.0.0 dnn: ReduceMax is 0.5, as OpenVINO's.
# IEEE 754, numpy and torch give NaN for all of the former and False for the comparisons. So an
# anomaly score may come out finite, or "not greater than the threshold", for an image that has no
# valid score: check the input before the network, by a sum, which all three hand on.
# Guessed before it was run: Greater(NaN, 0) False everywhere, ReduceMax NaN everywhere.
# Fails if a runtime changes this.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install -q --target "$folder" 'numpy==2.4.6' 'onnx==1.23.2' 'onnxruntime==1.32.0' \
  'openvino==2026.4.1' 'opencv-python-headless==5.0.0.93'
cd "$folder" && PYTHONPATH="$folder" python3 - <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

x = np.array([[1, np.nan, 0.5]], np.float32)
constants = [helper.make_tensor("zero", 1, [], [0.0]), helper.make_tensor("axes", 7, [1], [1])]
nodes, outputs = [], []
for op, second in (("Relu", []), ("Clip", ["zero"]), ("Max", ["zero"]), ("Greater", ["zero"]),
                   ("GreaterOrEqual", ["zero"]), ("ReduceMax", ["axes"]), ("ReduceSum", ["axes"])):
    made = op if "Greater" not in op else op + "_bool"
    nodes.append(helper.make_node(op, ["x", *second], [made]))
    if made != op:
        nodes.append(helper.make_node("Cast", [made], [op], to=TensorProto.FLOAT))
    width = 1 if op.startswith("Reduce") else 3
    outputs.append(helper.make_tensor_value_info(op, TensorProto.FLOAT, ["batch", width]))
inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])]
graph = helper.make_graph(nodes, "nan", inputs, outputs, constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, "nan.onnx")
names = [output.name for output in outputs]


def last(values):
    """What stands in the place of the NaN, or what the row was reduced to."""
    return {n: float(np.ravel(v)[1 if np.size(v) > 1 else 0]) for n, v in zip(names, values)}


session = onnxruntime.InferenceSession("nan.onnx", providers=["CPUExecutionProvider"])
compiled = openvino.compile_model("nan.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
results = compiled(x)
net = cv2.dnn.readNetFromONNX("nan.onnx", cv2.dnn.ENGINE_NEW)
net.setInput(x, "x")
found = {
    "onnxruntime 1.32.0": last(session.run(names, {"x": x})),
    "OpenVINO 2026.4.1": last([results[name] for name in names]),
    "OpenCV 5.0.0 dnn": last(net.forward(names)),
}
for runtime, values in found.items():
    print(runtime, values)
nan = float("nan")
right = {"Relu": nan, "Clip": nan, "Max": nan, "Greater": 0.0, "GreaterOrEqual": 0.0, "ReduceSum": nan}
expected = {
    "onnxruntime 1.32.0": {**right, "ReduceMax": 1.0},
    "OpenVINO 2026.4.1": {
        "Relu": 0.0, "Clip": 0.0, "Max": 0.0, "Greater": 1.0, "GreaterOrEqual": 1.0,
        "ReduceMax": 0.5, "ReduceSum": nan,
    },
    "OpenCV 5.0.0 dnn": {**right, "ReduceMax": 0.5},
}
for runtime, values in expected.items():
    for name, value in values.items():
        np.testing.assert_equal(found[runtime][name], value, f"{runtime}: {name}")
print("as stated")
PYTHON
