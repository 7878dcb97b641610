"""The C border: pointers, the GIL, and the one place where a C status becomes an exception; what C declares is in _core.pxd.

Nothing is checked here that ``_geometry`` has checked: arrays have the right shape, type, alignment and byte order.
"""

cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport PTRDIFF_MAX
from libc.string cimport memcmp, memset

from im2colx._blas import LARGEST_SIZE

from im2colx._blas cimport hold_threads, matmul_for, matmul_function, release_threads

cnp.import_array()

cdef extern from "Python.h":
    # Without Cython's `except -1`: the exception stays set until check_status lets it through.
    int PyErr_CheckSignals() noexcept

# Work (multiply-adds, or elements moved) below which giving up the GIL costs more than it brings: some microseconds.
cdef enum:
    WORTH_RELEASING = 20_000

MAX_THREADS = IM2COLX_MAX_THREADS
IMPLICIT_BYTES = IM2COLX_IMPLICIT_BYTES
STATUSES = IM2COLX_STATUSES

_TYPES = {"f4": IM2COLX_F32, "f8": IM2COLX_F64, "c8": IM2COLX_C64, "c16": IM2COLX_C128, "i4": IM2COLX_I32,
          "i8": IM2COLX_I64, "wide": IM2COLX_WIDE64}
_OPS = {"forward": IM2COLX_FORWARD, "grad_input": IM2COLX_GRAD_INPUT, "grad_weight": IM2COLX_GRAD_WEIGHT}


# ---- Status -----------------------------------------------------------------------------------------------------------

cdef int poll() noexcept nogil:
    """Runs pending signal handlers.  Non-zero: one of them raised, and the exception is set for check_status."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef int check_status(int status, str what) except -1:
    """Raises what `status` means, or what a signal handler has raised meanwhile."""
    if PyErr_Occurred():  # a signal handler raised during the call; that comes first, whatever else happened
        return -1
    if status == IM2COLX_OK:
        return 0
    if status == IM2COLX_NO_MEMORY:
        raise MemoryError(f"{what}: no memory for the workspace")
    if status == IM2COLX_OVERFLOW:
        raise OverflowError(f"{what}: a result does not fit into int64")
    if status == IM2COLX_FORKED:
        raise RuntimeError(f"{what}: a signal handler forked the process during the call, and this is the child: "
                           "the result is not complete here")
    raise SystemError(f"{what}: status {status}")


def raise_status(int status):
    """For tests: what a status of the C core raises."""
    check_status(status, "test")


# ---- Structures ---------------------------------------------------------------------------------------------------------

cdef int fill_geometry(im2colx_geometry *c, geometry) except -1:
    """From a Geometry of one to three spatial axes: leading axes are added that do nothing."""
    cdef int axis, lead = IM2COLX_AXES - len(geometry.image)
    c.batch = geometry.batch
    c.groups = geometry.groups
    c.channels = geometry.channels // geometry.groups
    c.filters = geometry.filters // geometry.groups
    for axis in range(IM2COLX_AXES):
        c.image[axis] = c.kernel[axis] = c.output[axis] = c.stride[axis] = c.dilation[axis] = 1
        c.pad[axis] = 0
        if axis >= lead:
            c.image[axis] = geometry.image[axis - lead]
            c.kernel[axis] = geometry.kernel[axis - lead]
            c.output[axis] = geometry.output[axis - lead]
            c.stride[axis] = geometry.stride[axis - lead]
            c.dilation[axis] = geometry.dilation[axis - lead]
            c.pad[axis] = geometry.pad[axis - lead][0]
    if not im2colx_is_bounded(c):
        raise SystemError(f"a geometry beyond the bounds of the C core: {geometry}")
    return 0


cdef void fill_contiguous(im2colx_call *call, bint is_last) noexcept:
    """Strides of C-contiguous arrays, for questions that are asked without arrays."""
    cdef im2colx_geometry *g = &call.geometry
    cdef ptrdiff_t channels = g.groups * g.channels, filters = g.groups * g.filters
    contiguous_image(&call.x, channels, g.image, is_last)
    contiguous_image(&call.y, filters, g.output, is_last)
    contiguous_image(&call.w, g.channels, g.kernel, False)
    if is_last:  # (..., C/G, F)
        call.w.outer, call.w.channel = 1, filters
        call.w.space[2] = filters * g.channels
        call.w.space[1] = call.w.space[2] * g.kernel[2]
        call.w.space[0] = call.w.space[1] * g.kernel[1]


cdef void contiguous_image(im2colx_tensor *t, ptrdiff_t channels, const ptrdiff_t *size, bint is_last) noexcept:
    t.data = NULL
    t.space[2] = channels if is_last else 1
    t.space[1] = t.space[2] * size[2]
    t.space[0] = t.space[1] * size[1]
    t.channel = 1 if is_last else t.space[0] * size[0]
    t.outer = t.space[0] * size[0] if is_last else t.channel * channels


cdef void fill_tensor(im2colx_tensor *t, cnp.ndarray array, int outer, int channel, int space) noexcept:
    """`outer`, `channel` and `space` (the first of consecutive ones) are axes of the array.

    The stride of an axis of one element may be anything; here it is what it is in a contiguous array, and so are those of
    the axes that are added.
    """
    cdef int axis, ndim = cnp.PyArray_NDIM(array), lead = IM2COLX_AXES - (ndim - 2)
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(array), step, reach = 1
    cdef ptrdiff_t[IM2COLX_AXES + 2] steps, reaches
    for axis in range(ndim - 1, -1, -1):
        step = cnp.PyArray_STRIDE(array, axis) // size if cnp.PyArray_DIM(array, axis) > 1 else reach
        steps[axis] = step
        reach = (-step if step < 0 else step) * (cnp.PyArray_DIM(array, axis) if cnp.PyArray_DIM(array, axis) > 1 else 1)
        reaches[axis] = reach
    t.data = cnp.PyArray_DATA(array)
    t.outer = steps[outer]
    t.channel = steps[channel]
    for axis in range(IM2COLX_AXES):
        t.space[axis] = steps[space + axis - lead] if axis >= lead else reaches[space]


cdef void fill_image(im2colx_tensor *t, cnp.ndarray array, bint is_last) noexcept:
    """x or y: (N, C, ...) or (N, ..., C)."""
    fill_tensor(t, array, 0, cnp.PyArray_NDIM(array) - 1 if is_last else 1, 1 if is_last else 2)


cdef void fill_weight(im2colx_tensor *t, cnp.ndarray array, bint is_last) noexcept:
    """w: (F, C/G, ...) or (..., C/G, F)."""
    cdef int ndim = cnp.PyArray_NDIM(array)
    fill_tensor(t, array, ndim - 1 if is_last else 0, ndim - 2 if is_last else 1, 0 if is_last else 2)


# ---- Calls --------------------------------------------------------------------------------------------------------------

cdef class Problem:
    """One convolution or gradient, ready to be run on arrays.  Immutable, so it may run in several threads at once.

    Parameters
    ----------
    geometry : Geometry
    op : {"forward", "grad_input", "grad_weight"}
    typecode : {"f4", "f8", "c8", "c16", "i4", "i8", "wide"}
        Of all arrays; "wide" is int64 with sums of 128 bits, for the direct loops only.
    method : {"loops", "tile", "whole", "implicit"}
        The direct loops; products with tiles of Phi of at most `workspace` bytes together; products with all of Phi; our
        own microkernels.
    workspace, threads : int
    work : int
        Multiply-adds, or whatever the loops do instead: whether the GIL is worth giving up.
    orientation : {"either", "pixels", "filters"}
        What "implicit" has in its lanes.
    is_finite : bool
        No weight that it will meet is inf or nan: "implicit" may leave out products with the padding.
    """

    cdef im2colx_call call
    cdef im2colx_product_options options
    cdef im2colx_implicit_options implicit
    cdef im2colx_orientation asked
    cdef bint is_loops, is_last, is_blas, is_implicit, is_worth_releasing
    cdef str what

    def __init__(self, geometry, str op, str typecode, str method, size_t workspace, int threads, work=None,
                 str orientation="either", bint is_finite=False):
        fill_geometry(&self.call.geometry, geometry)
        self.call.type = _TYPES[typecode]
        self.call.op = _OPS[op]
        self.call.threads = threads
        self.call.poll = poll
        self.call.bias = NULL
        self.is_last = geometry.channels_last
        self.is_loops = method == "loops"
        self.is_implicit = method == "implicit"
        self.is_worth_releasing = (geometry.multiply_adds if work is None else work) >= WORTH_RELEASING
        self.what = {"forward": "conv2d", "grad_input": "conv2d_grad_input", "grad_weight": "conv2d_grad_weight"}[op]
        self.options.order = IM2COLX_CHANNELS_LAST if self.is_last else IM2COLX_CHANNELS_FIRST
        self.options.workspace_bytes = workspace
        self.options.whole = method == "whole"
        self.options.matmul = matmul_for(typecode)
        self.options.largest = LARGEST_SIZE if self.options.matmul != NULL else PTRDIFF_MAX
        self.implicit.order = self.options.order
        self.implicit.orientation = {"either": IM2COLX_EITHER, "pixels": IM2COLX_PIXELS_IN_LANES,
                                     "filters": IM2COLX_FILTERS_IN_LANES}[orientation]
        self.implicit.packed = NULL
        self.implicit.is_finite = is_finite
        self.asked = self.implicit.orientation
        if self.is_implicit and self.call.op == IM2COLX_FORWARD and not self.is_last and orientation == "either":
            # Decided once, for contiguous arrays, not in every call.
            self.implicit.orientation = (IM2COLX_FILTERS_IN_LANES if self.explain()["lanes"] == "filters"
                                         else IM2COLX_PIXELS_IN_LANES)
        self.is_blas = not self.is_loops and not self.is_implicit and self.options.matmul != NULL
        if self.options.matmul == NULL:
            self.options.matmul = im2colx_matmul_i32 if typecode == "i4" else im2colx_matmul_i64

    def workspace_nbytes(self):
        """Bytes that `run` will allocate for contiguous arrays."""
        cdef im2colx_call call = self.call
        if self.is_loops:
            return 0
        fill_contiguous(&call, self.is_last)
        if self.is_implicit:
            return im2colx_implicit_explain(&call, &self.implicit).workspace_bytes
        return im2colx_product_workspace(&call, &self.options)

    def explain(self, bint is_packed=False):
        """What "implicit" will do with contiguous arrays, as a dict."""
        cdef im2colx_call call = self.call
        cdef im2colx_implicit_options options = self.implicit
        options.orientation = self.asked
        fill_contiguous(&call, self.is_last)
        if is_packed:
            options.packed = <const void *>&call  # only whether it is there is asked
        facts = im2colx_implicit_explain(&call, &options)
        return {"isa": facts.isa.decode(), "rows": facts.rows, "columns": facts.columns, "tasks": facts.tasks,
                "cycles": facts.cycles, "multiply_adds": round(facts.multiply_adds),
                "lanes": "filters" if facts.is_filters_in_lanes else "pixels",
                "copies_rows": bool(facts.is_slab), "workspace_nbytes": facts.workspace_bytes,
                "convolutions": facts.convolutions, "is_too_many": bool(facts.is_too_many)}

    def pack(self, cnp.ndarray w):
        """w packed for `run` of "implicit", as an array of bytes."""
        cdef im2colx_call call = self.call
        cdef cnp.npy_intp size = im2colx_packed_bytes(&call.geometry, call.type) + 64
        cdef cnp.ndarray packed = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
        cdef ptrdiff_t offset = -<ptrdiff_t>cnp.PyArray_DATA(packed) & 63  # a panel's rows are whole cache lines
        packed = packed[offset : size - 64 + offset]
        fill_weight(&call.w, w, self.is_last)
        cdef void *data = cnp.PyArray_DATA(packed)
        cdef im2colx_status status
        with nogil:
            status = im2colx_pack(&call, self.options.order, data)
        check_status(status, "plan_conv2d")
        return packed

    def finite_weights(self, cnp.ndarray w):
        """Whether no weight is inf or nan."""
        cdef im2colx_call call = self.call
        cdef int is_finite = False
        cdef im2colx_status status
        fill_weight(&call.w, w, self.is_last)
        with nogil:
            status = im2colx_finite_weights(&call, &is_finite)
        check_status(status, "plan_conv2d")
        return bool(is_finite)

    def run(self, cnp.ndarray x, cnp.ndarray w, cnp.ndarray y, cnp.ndarray bias=None, cnp.ndarray packed=None):
        """Reads two of the arrays and writes the third; all are of rank 2 + number of spatial axes."""
        cdef im2colx_call call = self.call
        cdef im2colx_implicit_options implicit = self.implicit
        cdef im2colx_status status
        if packed is not None:
            implicit.packed = cnp.PyArray_DATA(packed)
            implicit.orientation = IM2COLX_FILTERS_IN_LANES
        fill_image(&call.x, x, self.is_last)
        fill_weight(&call.w, w, self.is_last)
        fill_image(&call.y, y, self.is_last)
        if bias is not None:
            call.bias = cnp.PyArray_DATA(bias)
        if self.is_blas:
            hold_threads()
        try:
            if self.is_worth_releasing:
                with nogil:
                    status = self.dispatch(&call, &implicit)
            else:
                status = self.dispatch(&call, &implicit)
        finally:
            if self.is_blas:
                release_threads()
        check_status(status, self.what)

    cpdef object quick(self, x, w, bias, out, packed):
        """Forward on arrays that need no conversion, with all axes; None if they are not such arrays."""
        cdef im2colx_call call
        cdef im2colx_implicit_options implicit
        cdef im2colx_status status
        cdef cnp.ndarray y
        cdef cnp.npy_intp[4] shape
        cdef im2colx_geometry *g = &self.call.geometry
        cdef int typenum = cnp.NPY_FLOAT32 if self.call.type == IM2COLX_F32 else cnp.NPY_FLOAT64
        cdef int channel = 3 if self.is_last else 1, space = 1 if self.is_last else 2
        if not is_plain(x, 4) or cnp.PyArray_TYPE(<cnp.ndarray>x) != typenum or g.batch == 0 or g.image[1] * g.image[2] == 0:
            return None
        if self.call.type != IM2COLX_F32 and self.call.type != IM2COLX_F64:
            return None
        shape[0] = g.batch
        shape[channel] = g.groups * g.channels
        shape[space] = g.image[1]
        shape[space + 1] = g.image[2]
        if memcmp(shape, cnp.PyArray_DIMS(<cnp.ndarray>x), sizeof(shape)) != 0:
            return None
        if bias is not None:
            if not is_plain(bias, 1) or cnp.PyArray_TYPE(<cnp.ndarray>bias) != typenum \
                    or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>bias) \
                    or cnp.PyArray_DIM(<cnp.ndarray>bias, 0) != g.groups * g.filters:
                return None
        shape[channel] = g.groups * g.filters
        shape[space] = g.output[1]
        shape[space + 1] = g.output[2]
        if out is None:
            y = cnp.PyArray_EMPTY(4, shape, typenum, 0)
        else:
            if not is_plain(out, 4) or cnp.PyArray_TYPE(<cnp.ndarray>out) != typenum \
                    or not cnp.PyArray_ISCARRAY(<cnp.ndarray>out) \
                    or memcmp(shape, cnp.PyArray_DIMS(<cnp.ndarray>out), sizeof(shape)) != 0 \
                    or may_overlap(<cnp.ndarray>out, <cnp.ndarray>x) or may_overlap(<cnp.ndarray>out, <cnp.ndarray>w) \
                    or (bias is not None and may_overlap(<cnp.ndarray>out, <cnp.ndarray>bias)):
                return None
            y = <cnp.ndarray>out
        call = self.call
        implicit = self.implicit
        fill_image(&call.x, <cnp.ndarray>x, self.is_last)
        fill_weight(&call.w, <cnp.ndarray>w, self.is_last)
        fill_image(&call.y, y, self.is_last)
        if bias is not None:
            call.bias = cnp.PyArray_DATA(<cnp.ndarray>bias)
        if packed is not None:
            implicit.packed = cnp.PyArray_DATA(<cnp.ndarray>packed)
            implicit.orientation = IM2COLX_FILTERS_IN_LANES
        if self.is_blas:
            hold_threads()
        if self.is_worth_releasing:
            with nogil:
                status = self.dispatch(&call, &implicit)
        else:
            status = self.dispatch(&call, &implicit)
        if self.is_blas:
            release_threads()
        if status != IM2COLX_OK or self.is_worth_releasing:
            check_status(status, self.what)
        return y

    cdef im2colx_status dispatch(self, const im2colx_call *call, const im2colx_implicit_options *implicit) noexcept nogil:
        if self.is_implicit:
            return im2colx_implicit(call, implicit)
        return im2colx_loops(call) if self.is_loops else im2colx_product(call, &self.options)


# ---- The short way ----------------------------------------------------------------------------------------------------
#
# A call that was made before, on arrays that need no conversion, goes from Python's arguments to C in about a microsecond:
# no Geometry, no recipe, no temporary.  Whatever is unusual in any respect returns None here and goes the long way, which
# alone knows all rules and gives all errors.

cdef enum:
    REMEMBERED = 128  # calls; a later one takes the place of an earlier one with the same hash

cdef struct Key:
    Py_ssize_t[4] x, w
    Py_ssize_t[2] stride, dilation
    Py_ssize_t[4] pad
    Py_ssize_t groups, threads
    int typenum, layout, method, precision, word
    int filling  # zero: keys are compared byte by byte

_METHOD_CODES = {}
_PAD_CODES = {"valid": 1, "same": 2, "same_upper": 3, "same_lower": 4, "half": 5, "full": 6}
_LAYOUT_CODES = {"NCHW": 0, "NHWC": 1}
_PRECISION_CODES = {"exact": 0, "standard": 1, "fast": 2}

cdef Py_ssize_t _default_threads = 1

cdef Key[REMEMBERED] _keys
_remembered = [None] * REMEMBERED  # a Problem for each key


cdef inline bint pair_of(object value, Py_ssize_t *to) except -1:
    """An exact int, or a tuple of two: as two numbers.  False for anything else."""
    if type(value) is int:
        if not -(1 << 31) < value < (1 << 31):
            return False
        to[0] = to[1] = value
        return True
    if type(value) is tuple and len(<tuple>value) == 2:
        first, second = <tuple>value
        if type(first) is int and type(second) is int and 0 <= first < (1 << 31) and 0 <= second < (1 << 31):
            to[0] = first
            to[1] = second
            return True
    return False


cdef inline bint is_plain(object value, int axes):
    """An exact ndarray of float32 or float64, aligned and of native byte order, with so many axes."""
    return (type(value) is cnp.ndarray and cnp.PyArray_NDIM(<cnp.ndarray>value) == axes
            and (cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_FLOAT32
                 or cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_FLOAT64)
            and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>value))


cdef bint key_of(Key *key, x, w, stride, pad, dilation, groups, layout, method, precision, threads) except -1:
    """The key of a call; False if it cannot have one."""
    cdef int axis
    if not is_plain(x, 4) or not is_plain(w, 4) or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>w):
        return False
    key.typenum = cnp.PyArray_TYPE(<cnp.ndarray>x)
    if cnp.PyArray_TYPE(<cnp.ndarray>w) != key.typenum or type(groups) is not int or not 0 < groups < (1 << 31):
        return False
    for axis in range(4):
        key.x[axis] = cnp.PyArray_DIM(<cnp.ndarray>x, axis)
        key.w[axis] = cnp.PyArray_DIM(<cnp.ndarray>w, axis)
    key.groups = groups
    key.word = 0
    if not pair_of(stride, key.stride) or not pair_of(dilation, key.dilation):
        return False
    if type(pad) is str:
        key.word = _PAD_CODES.get(pad, 0)
        if key.word == 0:
            return False
        key.pad[0] = key.pad[1] = key.pad[2] = key.pad[3] = 0
    elif pair_of(pad, key.pad):
        key.pad[2] = key.pad[3] = 0
    elif type(pad) is tuple and len(<tuple>pad) == 2 and pair_of((<tuple>pad)[0], key.pad) \
            and pair_of((<tuple>pad)[1], key.pad + 2) and type((<tuple>pad)[0]) is tuple and type((<tuple>pad)[1]) is tuple:
        key.word = -1  # by side
    else:
        return False
    if type(layout) is not str or type(method) is not str or type(precision) is not str:
        return False
    key.layout = _LAYOUT_CODES.get(layout, -1)
    key.method = _METHOD_CODES.get(method, -1)
    key.precision = _PRECISION_CODES.get(precision, -1)
    key.threads = _default_threads
    if threads is not None:
        if type(threads) is not int or not 0 < threads <= IM2COLX_MAX_THREADS:
            return False
        key.threads = threads
    return key.layout >= 0 and key.method >= 0 and key.precision >= 0


cdef unsigned slot_of(const Key *key) noexcept nogil:
    """FNV-1a over the words of the key."""
    cdef const unsigned int *words = <const unsigned int *>key
    cdef unsigned long long value = 14695981039346656037ULL
    cdef size_t i
    for i in range(sizeof(Key) // sizeof(unsigned int)):
        value = (value ^ words[i]) * 1099511628211ULL
    return <unsigned>(value >> 32) % REMEMBERED


def set_default_threads(int n):
    """How many threads a call takes whose argument is None."""
    global _default_threads
    _default_threads = n


def default_threads():
    return _default_threads


def remember(Problem problem, x, w, stride, pad, dilation, groups, layout, method, precision, threads):
    """Keep the problem of a call for `quick_conv2d`, if the call is of the simple kind."""
    cdef Key key
    cdef unsigned slot
    memset(&key, 0, sizeof(Key))
    if key_of(&key, x, w, stride, pad, dilation, groups, layout, method, precision, threads):
        slot = slot_of(&key)
        _keys[slot] = key
        _remembered[slot] = problem


def quick_conv2d(x, w, stride, pad, dilation, groups, bias, layout, method, precision, out, workspace, threads):
    """conv2d, or None if the call must go the long way."""
    cdef Key key
    cdef unsigned slot
    if workspace is not None:
        return None
    memset(&key, 0, sizeof(Key))
    if not key_of(&key, x, w, stride, pad, dilation, groups, layout, method, precision, threads):
        return None
    slot = slot_of(&key)
    problem = _remembered[slot]
    if problem is None or memcmp(&key, &_keys[slot], sizeof(Key)) != 0:
        return None
    return (<Problem>problem).quick(x, w, bias, out, None)


cdef class PreparedCall:
    """What a Plan holds for the short way; a subclass gives `long_call(x, out)`, the long one."""

    cdef Problem problem
    cdef object w, bias, packed
    cdef bint is_quick

    def prepare(self, Problem problem, w, bias, packed, bint is_quick):
        self.problem = problem
        self.w, self.bias, self.packed = w, bias, packed
        self.is_quick = is_quick

    def __call__(self, x, out=None):
        if self.is_quick:
            y = self.problem.quick(x, self.w, self.bias, out, self.packed)
            if y is not None:
                return y
        return self.long_call(x, out)


cdef inline void bounds_of(cnp.ndarray array, size_t *low, size_t *high) noexcept:
    """The bytes that an array lies in: low <= address < high."""
    cdef int axis
    cdef ptrdiff_t reach
    low[0] = high[0] = <size_t>cnp.PyArray_DATA(array)
    for axis in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += cnp.PyArray_ITEMSIZE(array)


cdef inline bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef size_t a_low, a_high, b_low, b_high
    bounds_of(a, &a_low, &a_high)
    bounds_of(b, &b_low, &b_high)
    return a_low < b_high and b_low < a_high


def im2col(geometry, cnp.ndarray x, cnp.ndarray patches, int threads, ptrdiff_t begin=0, bint transposed=False):
    """Fills patches, C-contiguous and of x's item size: (rows, columns) with the rows of Phi from `begin` on, or their
    transpose (columns, rows)."""
    cdef im2colx_geometry g
    cdef im2colx_tensor t
    cdef im2colx_status status
    cdef size_t itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef im2colx_order order = IM2COLX_CHANNELS_LAST if geometry.channels_last else IM2COLX_CHANNELS_FIRST
    cdef ptrdiff_t end = begin + cnp.PyArray_DIM(patches, 1 if transposed else 0)
    cdef void *data = cnp.PyArray_DATA(patches)
    fill_geometry(&g, geometry)
    fill_image(&t, x, geometry.channels_last)
    with nogil:
        status = im2colx_im2col(&g, &t, itemsize, order, begin, end, transposed, data, threads, poll)
    check_status(status, "im2col")


def col2im(geometry, cnp.ndarray patches, cnp.ndarray x, str typecode, int threads):
    """Adds patches, (N*P, columns) and C-contiguous, to x; both of one type."""
    cdef im2colx_geometry g
    cdef im2colx_tensor t
    cdef im2colx_status status
    cdef im2colx_type kind = _TYPES[typecode]
    cdef im2colx_order order = IM2COLX_CHANNELS_LAST if geometry.channels_last else IM2COLX_CHANNELS_FIRST
    cdef const void *data = cnp.PyArray_DATA(patches)
    fill_geometry(&g, geometry)
    fill_image(&t, x, geometry.channels_last)
    with nogil:
        status = im2colx_col2im(&g, &t, kind, order, data, threads, poll)
    check_status(status, "col2im")


def gram_add(str typecode, cnp.ndarray tile, bint transposed, bint accumulate, cnp.ndarray gram, int threads):
    """The upper triangle of gram = tile^H tile, plus gram if `accumulate`; for a transposed tile, its conjugate."""
    cdef im2colx_type kind = _TYPES[typecode]
    cdef matmul_function matmul = matmul_for(typecode)
    cdef bint is_blas = matmul != NULL
    cdef ptrdiff_t columns = cnp.PyArray_DIM(gram, 0), rows = cnp.PyArray_DIM(tile, 1 if transposed else 0)
    cdef const void *data = cnp.PyArray_DATA(tile)
    cdef void *to = cnp.PyArray_DATA(gram)
    cdef im2colx_status status
    if not is_blas:
        matmul = im2colx_matmul_i32 if typecode == "i4" else im2colx_matmul_i64
    if is_blas:
        hold_threads()
    try:
        with nogil:
            status = im2colx_gram_add(matmul, kind, rows, columns, data, transposed, accumulate, to, threads, poll)
    finally:
        if is_blas:
            release_threads()
    check_status(status, "gram")


def gram_finish(str typecode, bint transposed, cnp.ndarray gram, int threads):
    """Mirrors the upper triangle that `gram_add` has summed."""
    cdef im2colx_type kind = _TYPES[typecode]
    cdef ptrdiff_t columns = cnp.PyArray_DIM(gram, 0)
    cdef void *data = cnp.PyArray_DATA(gram)
    cdef im2colx_status status
    with nogil:
        status = im2colx_gram_finish(kind, columns, transposed, data, threads, poll)
    check_status(status, "gram")


def csr(geometry, bint circular, cnp.ndarray w, cnp.ndarray indptr, cnp.ndarray indices, cnp.ndarray data, int threads):
    """Fills the three arrays of the matrix; w is (F, columns), C-contiguous, in the order of Phi's columns."""
    cdef im2colx_geometry g
    cdef im2colx_status status
    cdef size_t itemsize = cnp.PyArray_ITEMSIZE(w), index_bytes = cnp.PyArray_ITEMSIZE(indices)
    cdef im2colx_order order = IM2COLX_CHANNELS_LAST if geometry.channels_last else IM2COLX_CHANNELS_FIRST
    cdef const void *weights = cnp.PyArray_DATA(w)
    cdef void *pointers = cnp.PyArray_DATA(indptr)
    cdef void *columns = cnp.PyArray_DATA(indices)
    cdef void *values = cnp.PyArray_DATA(data)
    fill_geometry(&g, geometry)
    with nogil:
        status = im2colx_csr(&g, order, circular, itemsize, weights, index_bytes, pointers, columns, values, threads, poll)
    check_status(status, "conv_matrix")
# ---- Networks -----------------------------------------------------------------------------------------------------------

_PASSES = {"sgd": IM2COLX_SGD, "momentum": IM2COLX_MOMENTUM, "adam": IM2COLX_ADAM, "relu": IM2COLX_RELU,
           "relu_gradient": IM2COLX_RELU_GRADIENT}


cdef class Pass:
    """A pass over vectors, element by element: see csrc/im2colx.h for what each does.

    Parameters
    ----------
    name : {"sgd", "momentum", "adam", "relu", "relu_gradient"}
    rate, keep1, keep2, eps : float
        The numbers in its formula.
    """

    cdef im2colx_pass_call call

    def __init__(self, str name, double rate=0, double keep1=0, double keep2=0, double eps=0):
        self.call.kind = _PASSES[name]
        self.call.rate = rate
        self.call.keep[0] = keep1
        self.call.keep[1] = keep2
        self.call.eps = eps
        self.call.poll = poll

    cdef im2colx_pass_call on(self, out, int threads):
        cdef im2colx_pass_call call = self.call
        cdef cnp.ndarray array = out[0]
        cdef int i
        call.type = IM2COLX_F32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 else IM2COLX_F64
        call.count = cnp.PyArray_SIZE(array)
        call.threads = threads
        for i in range(len(out)):
            call.out[i] = cnp.PyArray_DATA(<cnp.ndarray?>out[i])
        return call

    def run(self, cnp.ndarray source, tuple out, int threads):
        """All arrays are C-contiguous, aligned, and of one size and type, float32 or float64."""
        cdef im2colx_pass_call call = self.on(out, threads)
        cdef im2colx_status status
        call.source = cnp.PyArray_DATA(source)
        if call.count < WORTH_RELEASING:
            call.threads = 1
            status = im2colx_pass(&call)
        else:
            with nogil:
                status = im2colx_pass(&call)
        check_status(status, "a pass")


cdef im2colx_matrix matrix_of(cnp.ndarray array) noexcept:
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(array)
    cdef im2colx_matrix m
    m.data = cnp.PyArray_DATA(array)
    m.row = cnp.PyArray_STRIDE(array, 0) // size
    m.column = cnp.PyArray_STRIDE(array, 1) // size
    if cnp.PyArray_DIM(array, 1) == 1:  # the stride of an axis of one element may be anything
        m.column = 1
    elif cnp.PyArray_DIM(array, 0) == 1 and m.column != 1:
        m.row = 1
    return m


def gemm(cnp.ndarray a, cnp.ndarray b, cnp.ndarray c, int threads, Pass step=None, tuple state=(), room=None):
    """c = a @ b, for matrices of float32 or float64; or the step that c, with its `state`, takes along a @ b.

    A row or a column of a and of b is contiguous, c and its state are C-contiguous, and all are aligned.  `room`, called
    with a number of bytes, gives an array of at least so many that begins on a cache line; by default memory is allocated.
    """
    cdef im2colx_gemm_call call
    cdef im2colx_pass_call step_call
    cdef im2colx_status status
    cdef cnp.ndarray workspace
    call.type = IM2COLX_F32 if cnp.PyArray_TYPE(c) == cnp.NPY_FLOAT32 else IM2COLX_F64
    call.m = cnp.PyArray_DIM(a, 0)
    call.k = cnp.PyArray_DIM(a, 1)
    call.n = cnp.PyArray_DIM(b, 1)
    call.a = matrix_of(a)
    call.b = matrix_of(b)
    call.c = cnp.PyArray_DATA(c)
    call.c_row = call.n
    call.poll = poll
    call.step = NULL
    call.workspace = NULL
    call.threads = threads if call.m * call.n * call.k >= WORTH_RELEASING else 1
    if step is not None:
        step_call = step.on((c, *state), threads)
        call.step = &step_call
    if room is not None:
        workspace = room(im2colx_gemm_workspace(&call))
        call.workspace = cnp.PyArray_DATA(workspace)
    if call.m * call.n * call.k < WORTH_RELEASING:
        status = im2colx_gemm(&call)
    else:
        with nogil:
            status = im2colx_gemm(&call)
    check_status(status, "a product")


def instruction_sets():
    """Those of this machine that the microkernels know, best last."""
    names = []
    while im2colx_isa_name(len(names)) != NULL:
        names.append(im2colx_isa_name(len(names)).decode())
    return names


def burn(str typecode, ptrdiff_t rounds):
    """Multiply-adds in registers on the instruction set in force; returns their floating-point operations."""
    cdef ptrdiff_t operations
    cdef im2colx_type kind = _TYPES[typecode]
    with nogil:
        im2colx_burn(kind, rounds, &operations)
    return operations * rounds


def isa():
    """The instruction set in force."""
    return im2colx_isa().decode()


def set_isa(str name):
    """Lower the instruction set in force to the named one; False if this machine has none of that name."""
    return bool(im2colx_set_isa(name.encode()))


def compiler():
    """The C compiler that built this module."""
    return im2colx_compiler().decode()
