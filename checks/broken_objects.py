"""Illegal uses of objects that were made: a plan, Φ, the number of threads, an FC layer."""

import math

import numpy as np

from arrays import Raw
from call import NAMES, Call
from refusals import TV, T, V, integer, resized


def of_objects(r, scene, call):
    """Faults in what is done with an object that was made."""
    made = None
    if call.may_decline:
        return None
    if call.name == "Plan":
        x = call.values["x"]
        other = r.choice(("shape", "dtype", "thing"))
        if other == "shape" and max((1, *x.values.shape)) < 1000:
            axis = r.randrange(len(x.values.shape))
            made = call.changed(x=resized(x, axis, x.values.shape[axis] + 1))
            made.errors, made.mentions, made.shows = V, ("x has",), (str(made.values["x"].values.shape),)
        elif other == "dtype" and "dtype" in call.values["call"][1]:
            other = "<f4" if np.dtype(x.dtype).newbyteorder("=") == np.complex64 else "<c8"
            made = call.changed(x=x._replace(dtype=other, values=x.values._replace(kind="ones")))
            made.errors, made.mentions, made.shows = T, ("x has",), ("dtype",)
        else:
            made = call.changed(x=r.choice((None, Raw("BadArray()"), "abc", Raw("np.ma.masked_array([1])"))))
            made.errors, made.mentions, made.shows = TV, ("x",), ()
    elif call.name == "PatchMatrix":
        rows, columns = scene.phi_shape
        tail, errors, mentions, shows = r.choice(
            (
                (f".row({rows})", (IndexError,), ("p",), (str(rows),)),
                (f".column({-columns - 1})", (IndexError,), ("q",), (str(-columns - 1),)),
                (".index(0.5, 0)", (TypeError,), ("p",), ()),
                (f".index({2**70}, 0)", (IndexError,), ("p",), (str(2**70),)),
                (f".index(0, {columns})", (IndexError,), ("q", "p"), (str(columns), "0")),
                (f"[{rows}]", (IndexError,), ("p",), (str(rows),)),
                (f"[:, {columns}]", (IndexError,), ("q",), (str(columns),)),
                (f"[:, [{columns}]]", (IndexError,), ("q",), (str(columns),)),
                ("[None]", (TypeError, IndexError), ("p",), ()),
                ("['a']", (TypeError, IndexError), ("p",), ()),
                ("[0:1, 0:1, 0:1]", (IndexError,), ("Φ",), ("two",)),
                ("[True]", (IndexError,), ("p",), ()),
                ("[[0.5]]", (IndexError, TypeError), ("p",), ()),
                ("[BadIndex()]", (TypeError, IndexError), ("p", "BadIndex"), ()),
                (f" @ np.ones({columns + 1})", V, ("Φ",), (str(columns + 1),)),
                (f".T @ np.ones({rows + 1})", V, ("Φ",), (str(rows + 1),)),
                (" @ np.ones((1, 1, 1))", V, ("Φ",), ("(1, 1, 1)",)),
                (f" @ np.full({columns}, None)", T, ("operand",), ("dtype",)),
            )
        )
        if rows > 2**40:
            return None
        made = Call("PatchMatrix", "PatchMatrix({call})" + tail, None, call=call.values["call"])
        made.errors, made.mentions, made.shows = errors, mentions, shows
    elif call.name == "set_num_threads":
        fault = integer(r, "n", 1)
        made = Call("set_num_threads", "set_num_threads({n})", None, n=fault.value)
        made.errors, made.mentions, made.shows = fault.errors, fault.mentions, fault.shows
    elif (
        call.name == "fc_to_conv"
        and "image" in repr(call.values["call"])
        and scene.case.groups == 1
        and scene.flavour == "small"
    ):
        # An entry that no patch reads, or another weight for one patch only.
        made = call.changed()
        made.template = "fc_to_conv(np.vander(np.linspace(1, 2, {rows}), {columns}), {call})"
        case = scene.case
        made.values |= {"rows": case.f * math.prod(scene.output), "columns": case.c * case.h * case.w}
        if made.values["rows"] < 2 or made.values["columns"] < 2 or 1 in scene.output or case.kernel == (1, 1):
            return None
        made.errors, made.mentions, made.shows = (NAMES["NotAConvolutionError"],), ("weights",), ("row",)
    return made
