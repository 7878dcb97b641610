"""The layers of bench/layers through im2colx and whatever else is installed: PyTorch, onnxruntime, OpenVINO.

    python bench/peers.py [--threads 1 2] [--layers NAME ...] [--csv FILE] [--picture FILE]

Each contender runs in a process of its own, because libraries disturb one another's waiting threads, and all take turns
on every layer, so that a disturbance of the machine meets all of them.  A time is the better of two medians.  Weights are
prepared beforehand where a library can do that, and results go into warm memory.  The share of the machine's peak is that
of fused multiply-adds in registers, measured in the same run.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import textwrap
from importlib import metadata, util
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from timing import Layer, all_layers

# Fresh results come from a warm heap, not from newly mapped pages; and BLAS is not held to older kernels.
QUIET = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
HELD = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
CONTENDERS = {"im2colx": "im2colx", "torch": "torch", "torch channels-last": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def prepare(contender, layer, threads):
    """A callable that computes the layer, and a note."""
    x, w = layer.arrays()
    if contender == "im2colx":
        import im2colx

        plan = im2colx.plan_conv2d(x.shape, w, *layer.arguments, threads=threads)
        out = plan(x)
        return (lambda: plan(x, out=out)), plan.method
    if contender.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
        order = torch.channels_last if "last" in contender else torch.contiguous_format
        tx, tw = (torch.from_numpy(a).contiguous(memory_format=order) for a in (x, w))

        def call():
            with torch.inference_mode():
                torch.nn.functional.conv2d(tx, tw, None, *layer.arguments)

        return call, ""
    model = onnx_model(layer, x, w)
    if contender == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return (lambda: session.run(None, {"x": x})), ""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    return (lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)), ""


def onnx_model(layer, x, w):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[layer.stride] * 2, pads=[layer.pad] * 4, group=layer.groups,
                            dilations=[layer.dilation] * 2, kernel_shape=[layer.kh, layer.kw])  # fmt: skip
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph([node], "layer", [tensor("x", TensorProto.FLOAT, x.shape)], [tensor("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(w, "w")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


def work():
    """A contender: reads a job a line, answers with the median seconds."""
    from im2colx._timing import interleaved

    contender = sys.argv[2]
    for line in sys.stdin:
        job = json.loads(line)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                call, note = prepare(contender, Layer(*job["layer"]), job["threads"])
                seconds = interleaved({"call": call}, job["seconds"])["call"]
            answer = {"seconds": seconds, "note": note}
        except Exception as error:  # a library that cannot do a layer is a result too
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def peak_gflops():
    """Floating-point operations of one core, 1e9 a second, when multiply-adds never leave the registers."""
    from im2colx import _core
    from im2colx._timing import interleaved

    rounds = 1_000_000
    return 1e-9 * _core.burn("f4", rounds) / interleaved({"burn": lambda: _core.burn("f4", rounds)}, 1.0)["burn"]


def compete(names, layers, threads, seconds):
    """Rows of (layer, threads, contender, seconds or None, note)."""
    environment = {key: value for key, value in os.environ.items() if key not in HELD} | QUIET
    command = [sys.executable, "-W", "ignore", __file__, "--work"]
    workers = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, env=environment)
        for name in names
    }  # fmt: skip
    rows = []
    for count in threads:
        for layer in layers:
            best = {}
            for _ in range(2):
                for name, worker in workers.items():
                    worker.stdin.write(json.dumps({"layer": layer, "threads": count, "seconds": seconds}) + "\n")
                    worker.stdin.flush()
                    answer = json.loads(worker.stdout.readline())
                    if "error" in answer:
                        best.setdefault(name, (None, answer["error"]))
                    elif name not in best or best[name][0] is None or answer["seconds"] < best[name][0]:
                        best[name] = (answer["seconds"], answer["note"])
            rows += [(layer, count, name, *result) for name, result in best.items()]
            print_row(layer, count, best)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return rows


def print_row(layer, threads, best):
    ours = best["im2colx"][0]
    others = [seconds for name, (seconds, _) in best.items() if name != "im2colx" and seconds]
    cells = "  ".join(f"{name} {seconds * 1e3:8.3f}" if seconds else f"{name}   failed" for name, (seconds, _) in best.items())
    ratio = f"  best peer / ours {min(others) / ours:.2f}" if others and ours else ""
    print(f"{threads}t {layer.name:14} {cells} ms{ratio}", flush=True)


def draw(rows, path, title):
    """Speed by layer and contender, for the fewest threads, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    least = min(row[1] for row in rows)
    rows = [row for row in rows if row[1] == least]
    names, layers = list(dict.fromkeys(row[2] for row in rows)), list(dict.fromkeys(row[0] for row in rows))
    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    for number, name in enumerate(names):
        speeds = []
        for layer in layers:
            seconds = next(row[3] for row in rows if row[0] == layer and row[2] == name)
            speeds.append(2e-9 * multiply_adds(layer) / seconds if seconds else 0)
        at = np.arange(len(layers)) + (number - (len(names) - 1) / 2) * 0.16
        axes.bar(at, speeds, 0.15, label=name, color=plt.get_cmap("cividis")(number / max(1, len(names) - 1)))
    axes.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=45, ha="right")
    axes.set_ylabel("speed (GFLOP/s)")
    axes.set_title(textwrap.fill(title, 120), fontsize=10)
    axes.legend(ncols=len(names), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def multiply_adds(layer):
    span_h, span_w = (layer.dilation * (k - 1) + 1 for k in (layer.kh, layer.kw))
    oh, ow = (layer.h + 2 * layer.pad - span_h) // layer.stride + 1, (layer.w + 2 * layer.pad - span_w) // layer.stride + 1
    return layer.n * layer.f * oh * ow * layer.c // layer.groups * layer.kh * layer.kw


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", nargs="+", choices=list(all_layers()), default=list(all_layers()), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=0.12, help="for each contender, layer and round (default 0.12)")
    parser.add_argument("--csv", type=Path, help="write the results to this file")
    parser.add_argument("--picture", type=Path, help="draw the speeds on the fewest threads into this file (.svg, .png)")
    args = parser.parse_args()
    names = [name for name, module in CONTENDERS.items() if util.find_spec(module)]
    import im2colx

    facts = im2colx.info()
    peak = peak_gflops()
    modules = dict.fromkeys(CONTENDERS[name] for name in names if name != "im2colx")
    versions = ", ".join([f"im2colx {facts['im2colx']}", *(f"{module} {metadata.version(module)}" for module in modules)])
    title = f"{facts['cpu']['model']}, {facts['cpu']['used']}, peak {peak:.0f} GFLOP/s a core; {versions}; NumPy {facts['numpy']}"
    print(title)
    rows = compete(names, [all_layers()[name] for name in args.layers], args.threads, args.seconds)
    for count in args.threads:
        times = {name: {row[0]: row[3] for row in rows if row[1] == count and row[2] == name} for name in names}
        ratios = [
            min(times[name][layer] for name in names if name != "im2colx" and times[name][layer]) / ours
            for layer, ours in times["im2colx"].items()
            if ours and any(times[name][layer] for name in names if name != "im2colx")
        ]
        shares = [2e-9 * multiply_adds(layer) / ours / (peak * count) for layer, ours in times["im2colx"].items() if ours]
        mean = f"best peer / ours: geometric mean {np.exp(np.mean(np.log(ratios))):.2f}; " if ratios else ""
        print(f"{count} threads: {mean}share of peak {min(shares):.0%} to {max(shares):.0%}")
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["layer", "threads", "contender", "seconds", "gflops", "share_of_peak", "note"])
            for layer, count, name, seconds, note in rows:
                speed = 2e-9 * multiply_adds(layer) / seconds if seconds else None
                writer.writerow([layer.name, count, name, seconds, speed, speed and speed / (peak * count), note])
    if args.picture:
        draw(rows, args.picture, f"{min(args.threads)} thread{'s' * (min(args.threads) > 1)}, float32. {title}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work()
    else:
        main()
