"""The layers of bench/layers through im2colx and whatever else is installed: PyTorch, onnxruntime, OpenVINO.

    python bench/peers.py [--threads 1 2] [--networks NAME ...] [--layers NAME ...] [--csv FILE] [--picture FILE]
    python bench/peers.py --from FILE ... --picture FILE      # from CSV files that were written before

Each contender runs in a process of its own, because libraries disturb one another's waiting threads, and all take turns
on every layer, so that a disturbance of the machine meets all of them.

speed   the better of two medians; weights are prepared beforehand where a library can do that, results go into warm memory
share   of the speed of fused multiply-adds in registers, on as many threads, measured beside the layer in the same process;
        products with the padding count as done, so leaving them out may take it beyond 100 %
memory  by which the resident memory of a fresh process grows at most beyond x, w and the result, from the preparation to
        the second call (Linux only): prepared weights and workspace
"""

import argparse
import contextlib
import csv
import ctypes
import gc
import importlib
import json
import os
import sys
import textwrap
import time
from importlib import metadata, util
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from contest import Contender, peak_flops, serve
from timing import Layer, all_layers, all_networks

CONTENDERS = {
    "im2colx": "im2colx",
    "torch": "torch",
    "torch channels-last": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}
COLUMNS = ["network", "layer", "threads", "contender", "seconds", "gflops", "share_of_peak", "memory_bytes", "note", "machine"]

# ---- A contender --------------------------------------------------------------------------------------------------------


def arrange(contender, layer):
    """x and w as the library takes them."""
    x, w = layer.arrays()
    if contender == "im2colx":
        return x, w
    if contender.startswith("torch"):
        import torch

        order = torch.channels_last if "last" in contender else torch.contiguous_format
        return tuple(torch.from_numpy(a).contiguous(memory_format=order) for a in (x, w))
    return x, onnx_model(layer, x, w)


def prepare(contender, layer, threads, x, w):
    """A callable that computes the layer, and a note."""
    if contender == "im2colx":
        import im2colx

        plan = im2colx.plan_conv2d(x.shape, w, *layer.arguments, precision="exact", threads=threads)
        out = plan(x)
        note = f"{plan.method}; by its own account {plan.workspace_nbytes} bytes of workspace, {plan.nbytes} of weights held"
        return (lambda: plan(x, out=out)), note
    if contender.startswith("torch"):
        import torch

        torch.set_num_threads(threads)

        def call():
            with torch.inference_mode():
                torch.nn.functional.conv2d(x, w, None, *layer.arguments)

        return call, ""
    if contender == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(w, options, providers=["CPUExecutionProvider"])
        return (lambda: session.run(None, {"x": x})), ""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(w), "CPU", settings).create_infer_request()
    return (lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)), ""


def onnx_model(layer, x, w):
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[layer.stride] * 2, pads=[*layer.pads] * 2, group=layer.groups,
                            dilations=[layer.dilation] * 2, kernel_shape=[layer.kh, layer.kw])  # fmt: skip
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph([node], "layer", [tensor("x", TensorProto.FLOAT, x.shape)], [tensor("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(w, "w")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


def work():
    """Answers jobs with what was measured."""
    contender = sys.argv[2]
    importlib.import_module(CONTENDERS[contender])

    def answer(what, layer, **settings):
        measure = memory if what == "memory" else speed
        try:
            return measure(contender, Layer(*layer), **settings)
        except Exception as error:  # a library that cannot do a layer is a result too
            return {"error": f"{type(error).__name__}: {error}"}

    serve(answer)


def speed(contender, layer, threads, seconds):
    from im2colx._timing import interleaved

    call, note = prepare(contender, layer, threads, *arrange(contender, layer))
    answer = {"seconds": interleaved({"call": call}, seconds)["call"], "note": note}
    if contender == "im2colx":
        answer["share"] = share_of_peak(call, layer, threads, seconds)
    return answer


def share_of_peak(call, layer, threads, seconds):
    """Median share of the machine's multiply-adds: in each round the peak first, then the layer for about as long."""
    shares = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(shares) < 5:
        peak, spent = peak_flops(threads)
        call()
        times = []
        while sum(times) < spent or len(times) < 2:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        shares.append(2 * layer.multiply_adds / np.median(times) / peak)
    return float(np.median(shares))


def memory(contender, layer, threads, seconds):
    """In a forked child: the library is imported here, but has computed nothing yet."""
    if not os.path.exists("/proc/self/clear_refs"):
        return {"memory": None}
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer = {"memory": growth(contender, layer, threads)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def growth(contender, layer, threads):
    """Bytes beyond x, w and the result."""
    with contextlib.suppress(AttributeError):  # glibc: what is freed goes back at once, and does not hide what comes
        ctypes.CDLL(None).mallopt(-3, 128 << 10)  # M_MMAP_THRESHOLD
    other = layer._replace(n=1, c=16, h=16, w=16, f=16, kh=3, kw=3, pad=1, stride=1, dilation=1, groups=1)
    call, _ = prepare(contender, other, threads, *arrange(contender, other))  # starts the library and its threads
    call()
    del call
    x, w = arrange(contender, layer)
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    call, _ = prepare(contender, layer, threads, x, w)
    call()
    call()
    return max(0, resident("VmHWM") - before - 4 * int(np.prod(layer.y_shape)))


def resident(key):
    """A size from the kernel, in bytes."""
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))


# ---- The contest --------------------------------------------------------------------------------------------------------


def compete(names, layers, threads, seconds, machine):
    """A record (COLUMNS) for each layer, number of threads and contender; memory for the fewest threads."""
    workers = {name: Contender(__file__, name) for name in names}
    of_layer = {layer: network for network in all_networks() for layer in all_layers(network)}

    def ask(name, what, layer, count):
        return workers[name].ask(what=what, layer=layer, threads=count, seconds=seconds)

    # First of all, while the processes are fresh.
    sizes = {(layer, name): ask(name, "memory", layer, min(threads)).get("memory") for layer in layers for name in names}
    records = []
    for count in threads:
        for layer in layers:
            rounds = [{name: ask(name, "speed", layer, count) for name in names} for _ in range(2)]
            found = []
            for name in names:
                answer = min((turn[name] for turn in rounds), key=lambda answer: answer.get("seconds", np.inf))
                spent = answer.get("seconds")
                values = [
                    of_layer[layer.name], layer.name, count, name, spent, spent and 2e-9 * layer.multiply_adds / spent,
                    max(turn[name].get("share", 0) for turn in rounds) or None,
                    sizes[layer, name] if count == min(threads) else None, answer.get("note", answer.get("error")), machine,
                ]  # fmt: skip
                found.append(dict(zip(COLUMNS, values, strict=True)))
            # That of the others follows from ours: their waiting threads would disturb the measurement of the peak.
            ours = found[0]
            for record in found[1:]:
                if record["seconds"] and ours["share_of_peak"]:
                    record["share_of_peak"] = ours["share_of_peak"] * ours["seconds"] / record["seconds"]
            records += found
            print_layer(found)
    for worker in workers.values():
        worker.close()
    return records


def ratio(found):
    """The best peer's time by ours, for the records of a layer; None if either is missing."""
    times = {record["contender"]: record["seconds"] for record in found if record["seconds"]}
    ours = times.pop("im2colx", None)
    return min(times.values()) / ours if ours and times else None


def print_layer(found):
    first = found[0]
    if first["network"] != getattr(print_layer, "network", None):
        print_layer.network = first["network"]
        print(f"-- {first['network']}: ms, MiB beyond x, w and the result")
    cells = []
    for record in found:
        size = "" if record["memory_bytes"] is None else f" {record['memory_bytes'] / 2**20:5.1f}"
        cells.append(
            f"{record['contender']} {record['seconds'] * 1e3:8.3f}{size}"
            if record["seconds"]
            else f"{record['contender']} failed"
        )
    share = f"  {first['share_of_peak']:4.0%} of peak" if first["share_of_peak"] else ""
    ahead = ratio(found)
    print(
        f"{first['threads']}t {first['layer']:13} {'  '.join(cells)}{share}"
        + (f"  best peer / ours {ahead:.2f}" if ahead else ""),
        flush=True,
    )


def by_layer(records):
    groups = {}
    for record in records:
        groups.setdefault((record["threads"], record["layer"]), []).append(record)
    return groups


def print_summary(records):
    for count in sorted({record["threads"] for record in records}):
        groups = [found for (threads, _), found in by_layer(records).items() if threads == count]
        ratios = {found[0]["layer"]: ratio(found) for found in groups if ratio(found)}
        shares = [found[0]["share_of_peak"] for found in groups if found[0]["share_of_peak"]]
        line = f"{count} thread{'s' * (count > 1)}, {len(groups)} layers: "
        if ratios:
            least = min(ratios, key=ratios.get)
            line += f"best peer / ours: geometric mean {np.exp(np.mean(np.log(list(ratios.values())))):.3f}, "
            line += f"least {ratios[least]:.2f} ({least}); "
        print(f"{line}share of peak {min(shares):.0%} to {max(shares):.0%}, median {np.median(shares):.0%}")
    for name in dict.fromkeys(record["contender"] for record in records):
        sizes = [
            record["memory_bytes"] / 2**20
            for record in records
            if record["contender"] == name and record["memory_bytes"] is not None
        ]
        if sizes:
            print(f"memory, {name}: {min(sizes):.1f} to {max(sizes):.1f} MiB, median {np.median(sizes):.1f}")


# ---- Files --------------------------------------------------------------------------------------------------------------


def write_csv(records, path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)


def read_csv(path):
    kinds = {"threads": int, "seconds": float, "gflops": float, "share_of_peak": float, "memory_bytes": int}
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {key: kinds.get(key, str)(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)
        ]


# Okabe and Ito's colours, light and dark, and a marker for each: the picture does not depend on colour alone.
INKS = {
    "page": ("#ffffff", "#1a1c20"),
    "ink": ("#1c1e21", "#e8e8e6"),
    "soft": ("#5b626d", "#a3a8b0"),
    "line": ("#d9dde2", "#3a3f47"),
}
MARKS = {
    "im2colx": ("o", "#b34700", "#f0a030"),
    "torch": ("v", "#9a3d78", "#e39ac8"),
    "torch channels-last": ("^", "#0072b2", "#56b4e9"),
    "onnxruntime": ("s", "#00735c", "#35c9a1"),
    "openvino": ("D", "#6b6f76", "#9aa0a8"),
}


def draw(records, path, title):
    """Speed and memory by layer and contender on the fewest threads, and our share of the peak on each number of them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = {name: light for name, (light, _) in INKS.items()}
    threads = sorted({record["threads"] for record in records})
    layers = list(dict.fromkeys((record["network"], record["layer"]) for record in records))
    networks = list(dict.fromkeys(network for network, _ in layers))
    at = {layer: row + 0.7 * networks.index(network) for row, (network, layer) in enumerate(layers)}
    few, *_ = labels = [f"{count} thread{'s' * (count > 1)}" for count in threads]

    def dots(axes, key, scale, name, count, **style):
        chosen = [r for r in records if r["contender"] == name and r["threads"] == count and r[key] is not None]
        axes.plot([r[key] * scale for r in chosen], [at[r["layer"]] for r in chosen], linestyle="none", **style)

    style = {"svg.fonttype": "none", "svg.hashsalt": "im2colx", "font.family": "sans-serif", "font.size": 9,
             "text.color": ink["ink"], "axes.labelcolor": ink["ink"], "axes.edgecolor": ink["soft"], "xtick.color": ink["soft"],
             "xtick.labelcolor": ink["ink"], "ytick.labelcolor": ink["ink"]}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(11, 1.9 + 0.17 * (max(at.values()) + 1)), layout="constrained", facecolor=ink["page"])
        speed, memory, share = panels = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2.2, 1.6))
        for name, (marker, color, _) in MARKS.items():
            is_ours = name == "im2colx"
            look = {"marker": marker, "color": color, "markerfacecolor": color if is_ours else "none", "label": name,
                    "markersize": 6 if is_ours else 4.5, "zorder": 4 if is_ours else 3}  # fmt: skip
            dots(speed, "gflops", 1, name, threads[0], **look)
            dots(memory, "memory_bytes", 2.0**-20, name, threads[0], **look)
        for marker, count, label in zip("o|x", threads, labels, strict=False):
            dots(share, "share_of_peak", 100, "im2colx", count, marker=marker, color=MARKS["im2colx"][1], label=label)
        speed.set(xlabel=f"speed, {few} (GFLOP/s)\nright is better", yticks=list(at.values()), yticklabels=list(at))
        memory.set_xscale("symlog", linthresh=1, linscale=0.5)
        memory.xaxis.set_major_formatter("{x:g}")
        memory.set(xlabel=f"memory beyond x, w, result (MiB)\n{few}; left is better", xlim=(-0.1, 1.3 * memory.get_xlim()[1]))
        share.set(xlabel="share of the multiply-add\npeak, im2colx (%)", ylim=(max(at.values()) + 0.8, -0.8))
        for axes in (speed, share):
            axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
        for axes, side in ((speed, "left"), (share, "right")):
            handles = axes.get_legend_handles_labels()
            figure.legend(*handles, loc=f"outside upper {side}", ncols=5, frameon=False, handletextpad=0.1)
        for axes in panels:
            axes.set_facecolor(ink["page"])
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(color=ink["line"], linewidth=0.6)
            axes.set_axisbelow(True)
        figure.supxlabel(textwrap.fill(title, 170), fontsize=8, x=0.01, ha="left", color=ink["soft"])
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".svg":
        follow_the_reader(path)


def follow_the_reader(path):
    """Makes the colours of an SVG file those of the reader's choice of light or dark."""
    text = path.read_text(encoding="utf-8")
    pairs = [*INKS.items(), *((f"mark{number}", pair) for number, (_, *pair) in enumerate(MARKS.values()))]
    for name, (light, _) in pairs:
        text = text.replace(light, f"var(--{name})")
    light, dark = (" ".join(f"--{name}: {pair[k]};" for name, pair in pairs) for k in range(2))
    rules = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>\n"
    path.write_text(text.replace(" <defs>", f" {rules} <defs>", 1), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--networks", nargs="+", choices=all_networks(), default=[], metavar="NAME", help="in bench/layers")
    parser.add_argument("--layers", nargs="+", choices=list(all_layers()), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=0.12, help="for each contender, layer and round (default 0.12)")
    parser.add_argument("--csv", type=Path, help="write the results to this file")
    parser.add_argument(
        "--from", type=Path, nargs="+", dest="sources", metavar="FILE", help="CSV files of earlier runs, instead of measuring"
    )
    parser.add_argument("--picture", type=Path, help="draw into this file (.svg, .png)")
    args = parser.parse_args()
    if args.sources:
        records = [record for path in args.sources for record in read_csv(path)]
        machine = records[0]["machine"]
        for found in by_layer(records).values():
            print_layer(found)
    else:
        names = [name for name, module in CONTENDERS.items() if util.find_spec(module)]
        layers = all_layers(*args.networks)
        machine = machine_line(names)
        print(machine)
        chosen = [layers[name] for name in args.layers or layers]
        records = compete(names, chosen, sorted(args.threads), args.seconds, machine)
    print_summary(records)
    if args.csv:
        write_csv(records, args.csv)
    if args.picture:
        draw(records, args.picture, f"float32. {machine}")


def machine_line(names):
    import im2colx

    facts = im2colx.info()
    modules = dict.fromkeys(CONTENDERS[name] for name in names if name != "im2colx")
    versions = ", ".join([f"im2colx {facts['im2colx']}", *(f"{module} {metadata.version(module)}" for module in modules)])
    cpu = f"{facts['cpu']['model']}, {facts['cpu']['used']}, peak {1e-9 * peak_flops(1)[0]:.0f} GFLOP/s a core"
    return f"{cpu}; {versions}; NumPy {facts['numpy']}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work()
    else:
        main()
