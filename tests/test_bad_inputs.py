"""Calls that broke other convolution libraries: each gets a clear error (or the right result) before any work."""

import signal
import time

import numpy as np
import pytest
from cases import methods

import im2colx
from im2colx import col2im, conv2d, conv2d_grad_input, conv2d_grad_weight, im2col, output_shape, plan_conv2d


def z(*shape):
    return np.zeros(shape, "f4")


def o(*shape):
    return np.ones(shape, "f4")


def virtual(*shape):
    return np.broadcast_to(np.float32(0), shape)


class BadIndex:
    def __index__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("nor this")


X, W = o(1, 4, 8, 8), o(4, 4, 3, 3)
Y = o(1, 4, 6, 6)

VALUE_ERRORS = {
    # sizes of zero
    "all_empty": lambda: conv2d(z(0, 0, 0, 0), z(0, 0, 0, 0)),
    "all_empty_shape": lambda: output_shape((0, 0, 0, 0), (0, 0, 0, 0)),
    "empty_kernel_width": lambda: conv2d(o(1, 3, 8, 8), z(4, 3, 0, 3)),
    "empty_kernel_height": lambda: conv2d(o(1, 1, 1, 1), z(1, 1, 1, 0)),
    "empty_x": lambda: conv2d(np.empty(0), W),
    "empty_w": lambda: conv2d(X, np.empty(0)),
    "empty_bias": lambda: conv2d(X, W, bias=np.empty(0)),
    "empty_out": lambda: conv2d(X, W, out=np.empty(0, "f4")),
    "no_channels": lambda: conv2d(z(1, 0, 8, 8), o(8, 1, 3, 3), groups=8),
    "no_channels_in_w": lambda: conv2d(o(1, 4, 8, 8), z(4, 0, 3, 3)),
    "no_filters": lambda: conv2d(X, z(0, 4, 3, 3)),
    "no_channels_strided": lambda: conv2d(z(2, 0, 2, 2), z(2, 6, 0, 0), stride=(56, 39)),
    "grad_weight_no_channels": lambda: conv2d_grad_weight(z(0, 1, 0, 1), z(0, 0, 0, 1), (1, 1, 1, 1), stride=(66, 18)),
    "grad_weight_all_empty": lambda: conv2d_grad_weight(z(0, 0, 0, 0), z(0, 0, 0, 0), (0, 0, 0, 0)),
    "grad_weight_empty_kernel": lambda: conv2d_grad_weight(z(1, 0, 1, 1), o(1, 1, 1, 1), (0, 1, 0, 0)),
    "grad_input_no_channels": lambda: conv2d_grad_input(z(52, 0, 1, 1), z(0, 5, 0, 1), (52, 5, 1, 1)),
    "grad_input_kernel_beyond_image": lambda: conv2d_grad_input(o(3, 3, 1, 0), o(3, 2, 1, 3), (3, 2, 1, 1), stride=(1, 2)),
    "grad_input_empty_height": lambda: conv2d_grad_input(z(1, 2, 0, 3), o(2, 2, 3, 3), (1, 2, 5, 5)),
    # arguments that describe the same size
    "w_channels": lambda: conv2d(X, o(4, 3, 3, 3)),
    "w_channels_groups": lambda: conv2d(X, o(4, 3, 3, 3), groups=2),
    "filters_groups": lambda: conv2d(X, o(3, 2, 3, 3), groups=2),
    "bias_of_channels": lambda: conv2d(o(1, 2, 5, 5), o(3, 2, 3, 3), bias=o(2)),
    "bias_matrix": lambda: conv2d(X, W, bias=o(4, 1)),
    "grad_weight_kernel": lambda: conv2d_grad_weight(o(1, 3, 8, 8), o(1, 4, 6, 6), (4, 3, 5, 5)),
    "grad_input_output": lambda: conv2d_grad_input(o(2, 4, 9, 9), o(4, 3, 3, 3), (1, 3, 8, 8)),
    "grad_input_x_shape_short": lambda: conv2d_grad_input(Y, W, (5,)),
    "grad_input_x_shape_long": lambda: conv2d_grad_input(Y, W, (1, 4, 8, 8, 1)),
    "grad_weight_w_shape_empty": lambda: conv2d_grad_weight(X, Y, ()),
    "col2im_windows": lambda: col2im(o(1, 9, 100), (1, 1, 4, 4), 3),
    "col2im_too_many": lambda: col2im(o(5, 9), (1, 1, 4, 4), 3),
    "out_shape": lambda: conv2d(X, W, out=np.empty((1, 4, 6, 5), "f4")),
    "out_dtype": lambda: conv2d(X, W, out=np.empty((1, 4, 6, 6), "f8")),
    "plane_with_filters": lambda: conv2d(o(8, 8), W),
    "batch_with_plane": lambda: conv2d(X, o(3, 3)),
    # strides, dilations, pads
    "stride_0": lambda: output_shape((1, 1, 4, 4), (1, 1, 3, 3), stride=0),
    "stride_1_0": lambda: plan_conv2d((1, 4, 8, 8), W, stride=(1, 0)),
    "im2col_stride_0": lambda: im2col(o(1, 1, 4, 4), 3, stride=(0, 1)),
    "col2im_stride_0": lambda: col2im(o(4, 9), (1, 1, 4, 4), 3, stride=0),
    "grad_input_stride_0": lambda: conv2d_grad_input(Y, W, (1, 4, 8, 8), stride=(0, 0)),
    "grad_weight_stride_0": lambda: conv2d_grad_weight(X, Y, (4, 4, 3, 3), stride=0),
    "depthwise_zeros": lambda: conv2d(o(1, 4, 8, 8), o(4, 1, 3, 3), groups=4, stride=0, dilation=0),
    "dilation_0": lambda: conv2d(X, W, dilation=(1, 0)),
    "groups_0": lambda: conv2d(X, W, groups=0),
    "pad_negative": lambda: conv2d(X, W, pad=-1),
    "pad_negative_side": lambda: conv2d(X, W, pad=((0, -1), (0, 0))),
    "pad_word": lambda: conv2d(X, W, pad="SAME"),
    "pad_flat": lambda: conv2d(X, W, pad=(1, 1, 1, 1)),
    "pad_three": lambda: conv2d(X, W, pad=(1, 1, 1)),
    "pad_triple": lambda: conv2d(X, W, pad=((1, 1, 1), (1, 1, 1))),
    "layout": lambda: conv2d(X, W, layout="CHWN"),
    "layout_lower": lambda: conv2d(X, W, layout="nchw"),
    "method": lambda: conv2d(X, W, method="winograd3"),
    "precision": lambda: conv2d(X, W, precision="sloppy"),
    "plan_precision": lambda: plan_conv2d((1, 4, 8, 8), W, precision="sloppy"),
    "kernel_negative": lambda: im2col(X, (-1, 2)),
    "x_shape_negative": lambda: conv2d_grad_input(Y, W, (1, 4, -8, 8)),
    "workspace_0": lambda: conv2d(X, W, workspace=0),
    "threads_0": lambda: conv2d(X, W, threads=0),
    "threads_many": lambda: conv2d(X, W, threads=10**6),
    "set_num_threads_0": lambda: im2colx.set_num_threads(0),
    "kernel_beyond_image": lambda: conv2d(o(1, 1, 2, 8), o(1, 1, 3, 3)),
    "two_negatives": lambda: output_shape((1, 1, 1, 1), (1, 1, 5, 5), stride=3),
    # sizes that wrap in 32 or 64 bits
    "pad_1879048192": lambda: conv2d(o(1, 1, 3, 3), o(1, 1, 4, 3), pad=(1879048192, 1879048192)),
    "pad_2_63": lambda: conv2d(X, W, pad=2**63),
    "stride_2_70": lambda: conv2d(X, W, stride=2**70),
    "stride_minus_2_70": lambda: conv2d(X, W, stride=-(2**70)),
    "dilation_wraps": lambda: conv2d(X, W, dilation=2**62, pad=2**61),
    "output_product": lambda: output_shape((2**20, 1, 2**22, 2**22), (2**20, 1, 1, 1)),
    "output_product_empty_batch": lambda: conv2d(np.empty((0, 1, 2**15, 2**15), "f4"), virtual(2**40, 1, 1, 1)),
    "col2im_shape_product": lambda: col2im(o(1, 1), (2**31, 2**31, 2**31, 4), 1),
    "phi_bytes": lambda: conv2d(virtual(4, 1, 2**16 - 1, 2**16 - 1), virtual(1, 1, 2**15, 2**15), method="im2col"),
    "padded_span": lambda: output_shape((1, 1, 5, 5), (1, 1, 3, 3), pad=2**50, dilation=2**50),
    "x_product": lambda: output_shape((2**20, 2**20, 2**10, 1), (1, 2**20, 1, 1), stride=2**30),
    "w_product": lambda: output_shape((1, 2**20, 2**10, 2**10), (2**20, 2**20, 2**9, 2**9)),
    "im2col_one_axis": lambda: im2col(np.ones(5), 1),
    "im2col_scalar": lambda: im2col(np.float32(1), 1),
    "patches_one_axis": lambda: im2colx.PatchMatrix(np.ones(5), 1),
    "ragged": lambda: conv2d([[1, 2], [3]], W),
    "out_of_one_element": lambda: conv2d(X, W, out=np.lib.stride_tricks.as_strided(np.empty(1, "f4"), (1, 4, 6, 6), (0,) * 4)),
    "phi_product": lambda: im2col(virtual(1, 1, 2**20, 2**20), (2**10, 2**10)),
    "im2col_over_workspace": lambda: conv2d(X, W, method="im2col", workspace=100),
    # lists
    "pad_list": lambda: conv2d(X, W, pad=[]),
    "pad_tuple": lambda: conv2d(X, W, pad=()),
    "pad_array": lambda: conv2d(X, W, pad=np.array([])),
    "stride_list": lambda: conv2d(X, W, stride=[]),
    "dilation_list": lambda: conv2d(X, W, dilation=[]),
}

TYPE_ERRORS = {
    "x_shape_int": lambda: conv2d_grad_input(Y, W, 7),
    "w_shape_int": lambda: conv2d_grad_weight(X, Y, 0),
    "w_shape_scalar": lambda: conv2d_grad_weight(X, Y, np.array(0)),
    "x_shape_floats": lambda: conv2d_grad_input(Y, W, (1, 4, 8.0, 8)),
    "x_shape_string": lambda: conv2d_grad_input(Y, W, "1488"),
    "object": lambda: conv2d(np.array([[None]]), o(1, 1)),
    "unicode": lambda: conv2d(np.array([["a"]], "U3"), o(1, 1)),
    "bytes": lambda: conv2d(np.array([[b"a"]], "S1"), o(1, 1)),
    "datetime": lambda: conv2d(np.zeros((2, 2), "M8[s]"), o(1, 1)),
    "timedelta": lambda: conv2d(o(2, 2), np.zeros((1, 1), "m8[s]")),
    "structured": lambda: conv2d(np.zeros((2, 2), [("a", "f4")]), o(1, 1)),
    "void": lambda: conv2d(np.zeros((2, 2), "V4"), o(1, 1)),
    "longdouble": lambda: conv2d(np.zeros((2, 2), "longdouble"), o(1, 1)),
    "clongdouble": lambda: conv2d(o(2, 2), np.zeros((1, 1), "clongdouble")),
    "bias_object": lambda: conv2d(X, W, bias=np.array([None] * 4)),
    "none": lambda: conv2d(None, W),
    "huge_python_int": lambda: conv2d([[2**70]], o(1, 1)),
    "masked": lambda: conv2d(np.ma.masked_array(o(2, 2)), o(1, 1)),
    "matrix": lambda: conv2d(np.asmatrix(o(2, 2)), o(1, 1)),
    "layout_array": lambda: im2col(X, 3, layout=np.array(["NCHW", "NHWC"])),
    "out_masked": lambda: conv2d(X, W, out=np.ma.masked_array(np.empty((1, 4, 6, 6), "f4"))),
    "plan_dtype_comma": lambda: plan_conv2d((1, 4, 8, 8), W, dtype=","),
    "method_bad_repr": lambda: conv2d(X, W, method=BadIndex()),
    "kernel_bad_index": lambda: im2col(X, BadIndex()),
    "layout_none": lambda: conv2d(X, W, layout=None),
    "precision_none": lambda: conv2d(X, W, precision=None),
    "method_none": lambda: conv2d(X, W, method=None),
    "out_list": lambda: conv2d(X, W, out=[0]),
    "threads_float": lambda: conv2d(X, W, threads=2.0),
    "workspace_float": lambda: conv2d(X, W, workspace=1e6),
    "plan_dtype": lambda: plan_conv2d((1, 4, 8, 8), W, dtype="float33"),
    "plan_dtype_object": lambda: plan_conv2d((1, 4, 8, 8), W, dtype=object),
    "plan_call_dtype": lambda: plan_conv2d((1, 4, 8, 8), W)(X.astype("f8")),
    "col2im_object": lambda: col2im(np.array([[None]]), (1, 1), 1),
    "stride_third_argument_bias": lambda: conv2d(X, W, np.zeros(2)),
}


@pytest.mark.parametrize("call", VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_value_errors(call):
    seconds = []
    for _ in range(3):  # the machine may be busy once
        start = time.perf_counter()
        with pytest.raises(ValueError):
            call()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("call", TYPE_ERRORS.values(), ids=TYPE_ERRORS)
def test_type_errors(call):
    with pytest.raises(TypeError):
        call()


class BadArray:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")


@pytest.mark.parametrize("name", ["stride", "dilation", "groups", "pad", "threads", "workspace"])
@pytest.mark.parametrize("value", [1.5, "1", float("nan"), True, np.True_, BadIndex(), 1j, {1: 2}, {1, 2}, b"12"])
def test_arguments_of_the_wrong_type(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        conv2d(X, W, **{name: value})


@pytest.mark.parametrize("name", ["stride", "dilation", "groups", "pad"])
def test_none_is_not_a_number(name):
    with pytest.raises(TypeError, match=name):
        conv2d(X, W, **{name: None})


def test_numpy_integers_are_integers():
    expected = conv2d(X, W, 2, 1)
    for kind in (np.int8, np.uint64, np.int64):
        np.testing.assert_array_equal(conv2d(X, W, kind(2), kind(1), kind(1), kind(1), threads=kind(1)), expected)
    np.testing.assert_array_equal(conv2d(X, W, np.array([2, 2]), np.array([1, 1])), expected)


@pytest.mark.parametrize("axes", [0, 1, 5, 6, 32, 64])
def test_any_number_of_axes_but_two_to_four(axes):
    with pytest.raises(ValueError, match=f"x has {axes} axes"):
        conv2d(np.ones((1,) * axes, "f4"), W)
    with pytest.raises(ValueError, match="w"):
        conv2d(X, np.ones((1,) * axes, "f4"))


def test_every_integer_of_a_call_set_wrong():
    """Each of the 16 integers of a call, set to 0, -1 and the least that 64 bits hold: an error, or an empty batch."""
    good = [1, 4, 8, 8, 4, 2, 3, 3, 1, 1, 0, 0, 1, 1, 2, 1]
    names = ["N", "C", "H", "W", "F", "C/G", "KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW", "G", "threads"]
    for position, name in enumerate(names):
        for value in (0, -1, -(2**63)):
            args = list(good)
            args[position] = value
            x_shape, w_shape = tuple(args[:4]), tuple(args[4:8])
            sizes = {"stride": args[8:10], "pad": args[10:12], "dilation": args[12:14], "groups": args[14]}
            if value == 0 and name in ("N", "PH", "PW"):
                assert output_shape(x_shape, w_shape, **sizes)
            elif name == "threads":
                with pytest.raises(ValueError, match="threads"):
                    conv2d(z(*x_shape), z(*w_shape), **sizes, threads=value)
            else:
                with pytest.raises(ValueError):
                    output_shape(x_shape, w_shape, **sizes)


def test_grad_input_refuses_every_shape_that_is_off_by_one():
    for array, shape in (("grad_y", (1, 4, 6, 6)), ("w", (4, 4, 3, 3)), ("x_shape", (1, 4, 8, 8))):
        for axis in range(4):
            for step in (-1, 1):
                args = {"grad_y": Y, "w": W, "x_shape": (1, 4, 8, 8)}
                wrong = list(shape)
                wrong[axis] += step
                args[array] = tuple(wrong) if array == "x_shape" else z(*wrong)
                with pytest.raises(ValueError):
                    conv2d_grad_input(**args)


def test_messages_name_the_argument_and_show_the_numbers():
    messages = {
        lambda: conv2d(X, o(4, 3, 3, 3), groups=2): "w has 3 input channels x 2 groups = 6, but x has 4 (layout NCHW)",
        lambda: conv2d(X, W, np.ones(64)): "bias=",
        lambda: conv2d(X, W, pad=(1, 2, 3, 4)): "((1, 2), (3, 4))",
        lambda: conv2d(o(1, 1, 2, 8), o(1, 1, 3, 3)): "the kernel spans 3 (size 3, dilation 1), but x has only 2 + padding 0 + 0",
        lambda: conv2d_grad_weight(X, Y, (4, 4, 5, 5)): "grad_y has shape (1, 4, 6, 6), but x and w_shape give an output of (1, 4, 4, 4)",
        lambda: conv2d(X, W, bias=o(3)): "bias has shape (3,), but must be (4,)",
        lambda: conv2d(X, W, out=np.empty((1, 4, 6, 5), "f4")): "out has shape (1, 4, 6, 5), but the result has (1, 4, 6, 6)",
        lambda: conv2d(X.astype("O"), W): "x has dtype object",
        lambda: conv2d(X, W, method="im2col", workspace=100): "5,184 bytes, more than workspace=100",
    }  # fmt: skip
    for call, message in messages.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert message in str(caught.value)


def test_an_array_like_that_raises_is_a_type_error():
    with pytest.raises(TypeError, match="x cannot be made an array"):
        conv2d(BadArray(), W)


def test_an_array_like_that_changes_is_read_once():
    class Shrinking:
        calls = 0

        def __array__(self, dtype=None, copy=None):
            self.calls += 1
            return X[:, :, : 9 - self.calls]

    changing = Shrinking()
    assert conv2d(changing, W).shape == (1, 4, 6, 6)
    assert changing.calls == 1


# ---- What must work -------------------------------------------------------------------------------------------------


def test_empty_height_with_padding_is_zeros():
    y = conv2d(o(1, 1, 0, 2), o(1, 1, 1, 1), pad=1)
    assert y.shape == (1, 1, 2, 4) and not y.any()


@pytest.mark.parametrize("method", methods())
def test_bias_runs_over_filters(method):
    for channels, filters in ((2, 5), (5, 2)):
        y = conv2d(z(1, channels, 4, 4), z(filters, channels, 3, 3), bias=np.arange(filters, dtype="f4"), method=method)
        assert (y == np.arange(filters)[:, None, None]).all()


def test_grad_input_of_an_empty_batch():
    assert conv2d_grad_input(z(0, 2, 3, 3), o(2, 4, 3, 3), (0, 4, 5, 5)).shape == (0, 4, 5, 5)


def test_out_must_not_overlap_an_input():
    buffer = np.ones((2, 1, 1, 8, 8), "f4")
    w = o(1, 1, 1, 1)
    for out in (buffer[0], buffer.reshape(-1)[32:96].reshape(1, 1, 8, 8)):
        with pytest.raises(ValueError, match="out overlaps x"):
            conv2d(buffer[0], w, out=out)
    with pytest.raises(ValueError, match="out overlaps w"):
        conv2d(o(1, 1, 1, 1), w, out=w)
    bias = o(1)
    with pytest.raises(ValueError, match="out overlaps bias"):
        conv2d(o(1, 1, 1, 1), w, bias=bias, out=bias.reshape(1, 1, 1, 1))
    with pytest.raises(ValueError, match="out overlaps grad_y"):
        conv2d_grad_input(buffer[0], w, (1, 1, 8, 8), out=buffer[0])
    with pytest.raises(ValueError, match="read-only"):
        conv2d(buffer[0], w, out=np.broadcast_to(np.float32(0), (1, 1, 8, 8)))
    interleaved = np.ones((1, 1, 8, 16), "f4")  # bounds overlap, elements do not
    out = interleaved[..., 1::2]
    assert conv2d(interleaved[..., ::2], w, out=out) is out


def test_memory_maps_and_bytes(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"\0" + X.tobytes())
    expected = conv2d(X, W)
    mapped = np.memmap(path, "f4", "r", offset=1, shape=X.shape)
    np.testing.assert_array_equal(conv2d(mapped, W), expected)
    for offset in range(1, 16):
        raw = b"\1" * offset + X.tobytes()
        np.testing.assert_array_equal(conv2d(np.frombuffer(raw, "f4", offset=offset).reshape(X.shape), W), expected)
    np.testing.assert_array_equal(conv2d(X.tolist(), W.tolist()), expected)


def test_overlapping_strides():
    line = np.arange(20, dtype="f4")
    windows = np.lib.stride_tricks.as_strided(line, (1, 1, 10, 11), (0, 0, 4, 4))
    np.testing.assert_array_equal(conv2d(windows, o(1, 1, 3, 3)), conv2d(windows.copy(), o(1, 1, 3, 3)))


def test_sequences_that_are_too_long_are_refused_by_their_length():
    """Before their content is looked at: a range of 2^26 entries, or of 2^60, takes no time and no memory."""
    for size in (2**26, 2**60):
        calls = {
            "w_shape": lambda: output_shape((1, 1, 2, 2), range(size)),
            "x_shape": lambda: output_shape(range(size), (1, 1, 2, 2)),
            "stride": lambda: conv2d(X, W, range(size)),
            "pad": lambda: conv2d(X, W, 1, range(size)),
            "dilation": lambda: conv2d(X, W, dilation=range(size)),
            "kernel": lambda: im2col(X, range(size)),
        }
        for name, call in calls.items():
            start = time.perf_counter()
            with pytest.raises((ValueError, OverflowError), match=name):
                call()
            assert time.perf_counter() - start < 1  # seconds and gigabytes, where the entries are counted out


class Alarm:
    """Where this is read as a number or as an array, a signal arrives."""

    def _ring(self):
        signal.raise_signal(signal.SIGUSR1)

    def __index__(self):
        self._ring()
        return 1

    def __array__(self, dtype=None, copy=None):
        self._ring()
        return X


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError])
def test_what_a_signal_handler_raises_is_not_about_the_argument(error):
    def handler(number, frame):
        raise error("from the handler")

    class Handler:
        def method(self, number, frame):
            raise error("from the handler")

    before = signal.getsignal(signal.SIGUSR1)
    try:
        for installed in (handler, Handler().method):
            signal.signal(signal.SIGUSR1, installed)
            for call in (lambda: conv2d(X, W, Alarm()), lambda: conv2d(Alarm(), W), lambda: im2col(X, 3, pad=Alarm())):
                with pytest.raises(error, match="^from the handler$"):
                    call()
    finally:
        signal.signal(signal.SIGUSR1, before)
