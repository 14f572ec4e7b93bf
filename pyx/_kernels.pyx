# The kernels: what Python calls.  One layer in one direction, forward and backward over whole sequences, and
# streams of single steps; the functions are those of src/clstm/reference.py, over the records of
# src/clstm/cells.py.
#
# An entry turns the records into a job, once, and starts a walk (_walk.pxi).  Nothing but the type of each
# array, and that there is one, is checked here: the rest is the work of _check.py, before any call.  Sizes
# are read from the arrays; the walk runs without the GIL, in dense, aligned, zero-padded workspaces.
#
# Notation
#   V            numbers in a vector; U = ceil(H / V) vectors cover the hidden units, with padding
#   z            pre-activations, later gates: G vectors for each vector of units, side by side
#   panel        up to four vectors of columns of a matrix side by side, row after row: (depth, width)
#   tail         the units behind the last whole vector of an LSTM: up to three quarters of a vector share a
#                panel without gaps between their gates, which `spread` sets apart before the gates stage
#   row          of a matrix; in a workspace, the place of a sequence: they are ordered by length, longest
#                first, so that those still running are a prefix
#   tile         rows that go through a panel together; where nothing else is said R = tile_rows(4) of them
#   b            index of a sequence in the caller's batch; the workspace has it in row r, order[r] = b
#   s, t         step in the order of computation; time index (they differ in the reverse direction)
#   IN, OUT      what a pointer argument is read or written for

cimport cython
from cython.view cimport contiguous
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from threading import get_ident, main_thread

import numpy

cdef extern from "simd.h" nogil:
    # Vectors are declared as numbers, so that formulas can be written; C then works on all lanes at once.
    ctypedef float vec_f32 "clstm_vec_f32"
    ctypedef double vec_f64 "clstm_vec_f64"
    enum:
        CLSTM_VECTOR_BYTES
        COLUMNS_ROWS "CLSTM_COLUMNS_ROWS"
        LANES_F32 "clstm_LANES_f32"
        LANES_F64 "clstm_LANES_f64"
    vec_f32 broadcast_f32 "clstm_broadcast_f32"(float x)
    vec_f64 broadcast_f64 "clstm_broadcast_f64"(double x)
    vec_f32 load_f32 "clstm_load_f32"(const float *start)
    vec_f64 load_f64 "clstm_load_f64"(const double *start)
    vec_f32 madd_f32 "clstm_madd_f32"(vec_f32 a, vec_f32 b, vec_f32 c)
    vec_f64 madd_f64 "clstm_madd_f64"(vec_f64 a, vec_f64 b, vec_f64 c)
    vec_f32 tanh_f32 "clstm_tanh_f32"(vec_f32 x)
    vec_f64 tanh_f64 "clstm_tanh_f64"(vec_f64 x)
    vec_f32 sigmoid_f32 "clstm_sigmoid_f32"(vec_f32 x)
    vec_f64 sigmoid_f64 "clstm_sigmoid_f64"(vec_f64 x)
    void spread_f32 "clstm_spread_f32"(float *z, Py_ssize_t pitch)
    void spread_f64 "clstm_spread_f64"(double *z, Py_ssize_t pitch)
    void join_f32 "clstm_join_f32"(float *z, Py_ssize_t pitch)
    void join_f64 "clstm_join_f64"(double *z, Py_ssize_t pitch)
    Py_ssize_t tile_rows "clstm_tile_rows"(Py_ssize_t width)
    void tile_f32 "clstm_tile_f32"(Py_ssize_t rows, Py_ssize_t width,
                                   const float *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const float *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   const float *start, Py_ssize_t start_row, Py_ssize_t start_next,
                                   float *sums, Py_ssize_t sums_row, Py_ssize_t sums_next)
    void tile_f64 "clstm_tile_f64"(Py_ssize_t rows, Py_ssize_t width,
                                   const double *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const double *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   const double *start, Py_ssize_t start_row, Py_ssize_t start_next,
                                   double *sums, Py_ssize_t sums_row, Py_ssize_t sums_next)
    void accumulate_f32 "clstm_accumulate_f32"(const float *a, const float *rows, Py_ssize_t pitch,
                                               Py_ssize_t depth, Py_ssize_t n, float *z)
    void accumulate_f64 "clstm_accumulate_f64"(const double *a, const double *rows, Py_ssize_t pitch,
                                               Py_ssize_t depth, Py_ssize_t n, double *z)
    void transpose_f32 "clstm_transpose_f32"(const float *columns, Py_ssize_t pitch, Py_ssize_t n,
                                             Py_ssize_t count, float *to, Py_ssize_t step, bint whole)
    void transpose_f64 "clstm_transpose_f64"(const double *columns, Py_ssize_t pitch, Py_ssize_t n,
                                             Py_ssize_t count, double *to, Py_ssize_t step, bint whole)
    void accumulate_columns_f32 "clstm_accumulate_columns_f32"(Py_ssize_t rows, const float *a,
                                                               Py_ssize_t a_row, const float *columns,
                                                               Py_ssize_t pitch, Py_ssize_t depth,
                                                               Py_ssize_t n, float *z, Py_ssize_t z_row)
    void accumulate_columns_f64 "clstm_accumulate_columns_f64"(Py_ssize_t rows, const double *a,
                                                               Py_ssize_t a_row, const double *columns,
                                                               Py_ssize_t pitch, Py_ssize_t depth,
                                                               Py_ssize_t n, double *z, Py_ssize_t z_row)
    ctypedef int fp_state "clstm_fp_state"
    fp_state flush_denormals "clstm_flush"()
    void restore_denormals "clstm_restore"(fp_state state)

cdef extern from "activations.h" nogil:
    enum:
        CLSTM_SIGMOID
        CLSTM_TANH
    vec_f32 clamp_f32 "clstm_clamp_f32"(vec_f32 x, float limit)
    vec_f64 clamp_f64 "clstm_clamp_f64"(vec_f64 x, double limit)
    vec_f32 let_through_f32 "clstm_let_through_f32"(vec_f32 x, float limit, vec_f32 d)
    vec_f64 let_through_f64 "clstm_let_through_f64"(vec_f64 x, double limit, vec_f64 d)
    float sum_f32 "clstm_sum_f32"(vec_f32 x)
    double sum_f64 "clstm_sum_f64"(vec_f64 x)
    float root_f32 "clstm_root_f32"(float x)
    double root_f64 "clstm_root_f64"(double x)
    void activate_f32 "clstm_activate_f32"(int function, float alpha, float beta, vec_f32 *x)
    void activate_f64 "clstm_activate_f64"(int function, double alpha, double beta, vec_f64 *x)
    void slope_f32 "clstm_slope_f32"(int function, float alpha, float beta, const vec_f32 *x,
                                     const vec_f32 *y, vec_f32 *d)
    void slope_f64 "clstm_slope_f64"(int function, double alpha, double beta, const vec_f64 *x,
                                     const vec_f64 *y, vec_f64 *d)

cdef extern from "narrow.h" nogil:
    enum:
        DOT "CLSTM_DOT"
    ctypedef struct NarrowProduct "clstm_narrow_product":
        const unsigned int *words
        Py_ssize_t depth
        const float *scale
        const void *a
        Py_ssize_t a_row, rows, row, row_stride, first, last
        bint descending
        const float *start
        Py_ssize_t start_row, start_panel
        float *sums
        Py_ssize_t sums_row, sums_panel
    Py_ssize_t narrow_row_bytes "clstm_narrow_row_bytes"(Py_ssize_t n)
    Py_ssize_t quantise "clstm_quantise"(const float *a, Py_ssize_t n, float factor, float levels,
                                         float limit, bint split, void *row)
    void multiply_bfloat16 "clstm_multiply_bfloat16"(const NarrowProduct *product)
    void multiply_bytes "clstm_multiply_bytes"(const NarrowProduct *product)
    void multiply_dot "clstm_multiply_dot"(const NarrowProduct *product)
    void add_atomically "clstm_add_atomically"(Py_ssize_t *to, Py_ssize_t n)
    Py_ssize_t PANEL_UNITS "CLSTM_PANEL_UNITS"

cdef extern from "memory.h" nogil:
    void *clstm_alloc(size_t size)
    bint clstm_free(void *block)

cdef extern from "team.h" nogil:
    ctypedef void (*work_function "clstm_work")(void *job, int thread) noexcept
    ctypedef struct Team "clstm_team":
        int size
        int cancelled
        int signals
        int counted
        double polled, unpolled
    void begin "clstm_begin"(Team *team, bint signals)
    bint barrier "clstm_barrier"(Team *team, int thread)
    bint waiting "clstm_waiting"(Team *team)
    void let_in "clstm_let_in"(Team *team)
    Py_ssize_t take_piece "clstm_take"(Team *team)
    void restart "clstm_restart"(Team *team)
    bint stopped "clstm_stopped"(Team *team)
    void run_team "clstm_run"(int wanted, work_function work, void *job, size_t size, Team *team)
    double now "clstm_now"()
    bint solo "clstm_solo"()
    int patient "clstm_patient"
    double clstm_saved(int size, double elapsed, double waited)
    bint clstm_gives_up(double saved, double last, double credit)

cdef extern from "strips.h" nogil:
    ctypedef struct Strip "clstm_strip":
        Py_ssize_t steps, done, goal
    ctypedef struct Order "clstm_order":
        Team team
        Py_ssize_t count
        bint chained
        Strip *strips
    Py_ssize_t next_chunk "clstm_next"(Order *order, int thread, Py_ssize_t last)
    void finish_chunk "clstm_finish"(Order *order, int thread, Py_ssize_t strip, Py_ssize_t goal)

cdef extern from "arrays.h":
    ctypedef struct Descr "clstm_descr":
        int type_num
    ctypedef struct Array "clstm_array":
        char *data
        int nd
        Py_ssize_t *dimensions
        Py_ssize_t *strides
        Descr *descr
        int flags
    enum:
        BOOL "CLSTM_BOOL"
        FLOAT "CLSTM_FLOAT"
        DOUBLE "CLSTM_DOUBLE"
        LIES_PLAIN "CLSTM_LIES_PLAIN"
        WRITEABLE "CLSTM_WRITEABLE"
    const Array *array_of "clstm_array_of"(PyObject *object, const void *array_class, int type_num,
                                           int flags) noexcept

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    int PyErr_CheckSignals() noexcept
    int PyObject_GetBuffer(object exporter, Py_buffer *view, int flags) noexcept
    int PyBuffer_FillInfo(Py_buffer *view, object exporter, void *start, Py_ssize_t size, bint readonly,
                          int flags) except -1
    void PyBuffer_Release(Py_buffer *view)
    void PyErr_Clear()
    enum:
        PyBUF_FORMAT
        PyBUF_C_CONTIGUOUS
        PyBUF_WRITABLE

ctypedef fused floating:
    float
    double

ctypedef fused vec:
    vec_f32
    vec_f64

VECTOR_BYTES = CLSTM_VECTOR_BYTES

# The feature of _cpu.py's with which a further instruction for bytes can be used, or "".
DOT_FEATURE = {512: "avx512_vnni", 256: "avx_vnni"}.get(DOT, "")

# Whether it is used; the bits are the same.
cdef bint dot = False

# Threads a call may use, the calling one included; set by _threads.py.
cdef int max_threads = 1


def set_num_threads(int n, bint wait=False):
    """Set how many threads a call may use; wait: for tests, it begins when all of them are there."""
    global max_threads, patient
    max_threads, patient = n, wait


def gives_up(int size, double elapsed, double waited, double last, double credit):
    """Whether `size` threads are to stop sharing a call; seconds, see team.h.  For tests."""
    return clstm_gives_up(clstm_saved(size, elapsed, waited), last, credit)


def use_dot(bint on):
    """Set whether products of bytes use the instruction that needs DOT_FEATURE, and return what was set."""
    global dot
    before, dot = dot, on and DOT > 0
    return before


# ------------------------------------------------------------------------------------ one name for both types

cdef inline vec constant(double x, vec like) noexcept nogil:
    if vec is vec_f32:
        return broadcast_f32(<float> x)
    else:
        return broadcast_f64(x)


cdef inline vec madd(vec a, vec b, vec c) noexcept nogil:
    if vec is vec_f32:
        return madd_f32(a, b, c)
    else:
        return madd_f64(a, b, c)


cdef inline vec vec_tanh(vec x) noexcept nogil:
    if vec is vec_f32:
        return tanh_f32(x)
    else:
        return tanh_f64(x)


cdef inline vec vec_sigmoid(vec x) noexcept nogil:
    if vec is vec_f32:
        return sigmoid_f32(x)
    else:
        return sigmoid_f64(x)


cdef inline vec vec_clamp(vec x, double limit) noexcept nogil:
    if vec is vec_f32:
        return clamp_f32(x, <float> limit)
    else:
        return clamp_f64(x, limit)


cdef inline vec vec_let_through(vec x, double limit, vec d) noexcept nogil:
    if vec is vec_f32:
        return let_through_f32(x, <float> limit, d)
    else:
        return let_through_f64(x, limit, d)


cdef inline void spread(floating *z, Py_ssize_t pitch) noexcept nogil:
    if floating is float:
        spread_f32(z, pitch)
    else:
        spread_f64(z, pitch)


cdef inline void join(floating *z, Py_ssize_t pitch) noexcept nogil:
    if floating is float:
        join_f32(z, pitch)
    else:
        join_f64(z, pitch)


cdef inline void transpose(const floating *columns, Py_ssize_t pitch, Py_ssize_t n, Py_ssize_t count,
                           floating *to, Py_ssize_t step, bint whole) noexcept nogil:
    if floating is float:
        transpose_f32(columns, pitch, n, count, to, step, whole)
    else:
        transpose_f64(columns, pitch, n, count, to, step, whole)


cdef inline void accumulate(const floating *a, const floating *W, Py_ssize_t pitch, Py_ssize_t depth,
                            Py_ssize_t n, floating *z) noexcept nogil:
    if floating is float:
        accumulate_f32(a, W, pitch, depth, n, z)
    else:
        accumulate_f64(a, W, pitch, depth, n, z)


cdef inline void accumulate_columns(Py_ssize_t rows, const floating *a, Py_ssize_t a_row, const floating *W,
                                    Py_ssize_t pitch, Py_ssize_t depth, Py_ssize_t n, floating *z,
                                    Py_ssize_t z_row) noexcept nogil:
    if floating is float:
        accumulate_columns_f32(rows, a, a_row, W, pitch, depth, n, z, z_row)
    else:
        accumulate_columns_f64(rows, a, a_row, W, pitch, depth, n, z, z_row)


cdef inline Py_ssize_t lanes(const floating *like) noexcept nogil:
    return LANES_F32 if floating is float else LANES_F64


# ------------------------------------------------------------------------------------------- NumPy's arrays

cdef object empty = numpy.empty
cdef int intp_num = numpy.dtype(numpy.intp).num
# The class of arrays whose fields `Array` has; none if it has others, so that no argument is read this way.
cdef void *array_class = <void *> numpy.ndarray if lies_as_declared(numpy.zeros((2, 3, 5))[:, 1]) else NULL


cdef bint lies_as_declared(object array) except? False:
    """Whether an array of two axes of doubles says the same of itself as is found in its memory."""
    cdef const Array *found = <const Array *> <void *> array
    cdef size_t start = array.__array_interface__["data"][0]
    return (
        array.__class__.__basicsize__ >= sizeof(Array)
        and <size_t> found.data == start
        and found.nd == 2
        and (found.dimensions[0], found.dimensions[1]) == array.shape
        and (found.strides[0], found.strides[1]) == array.strides
        and found.flags == array.flags.num
        and <void *> found.descr == <void *> array.dtype
        and found.descr.type_num == DOUBLE
        and array.dtype.num == DOUBLE
    )


include "_cells.pxi"
include "_products.pxi"
include "_schedule.pxi"
include "_walk.pxi"
include "_options.pxi"
include "_strips.pxi"
include "_narrow_products.pxi"
include "_plain_product.pxi"


# -------------------------------------------------------------------------------------------------- sequences

@cython.boundscheck(True)
def forward(
    cell not None,                                           # IN   a Cell
    const floating[:, :, ::contiguous] x not None,           # IN   (T, B, I)
    tuple state not None,                                    # IN   (B, R), (B, H)
    schedule not None,                                       # IN   a Schedule
    tape not None,                                           # OUT  a CellTape, what is not None; masks are IN
    tuple final not None,                                    # OUT  (B, R), (B, H)
):
    """Run one layer in one direction over whole sequences; see `clstm.reference.forward`."""
    cdef Forward job
    if x.shape[1] == 0:
        return
    memset(&job, 0, sizeof(Forward))
    read_forward(&job, cell, x, state, schedule, tape, final)
    run_forward(&job, <floating *> NULL)


@cython.boundscheck(True)
cdef int read_forward(Forward *job, object cell, const floating[:, :, ::contiguous] x, tuple state,
                      object schedule, object tape, tuple final) except -1:
    """Turn what `forward` gets, and its caller keeps alive, into a job that is full of 0."""
    cdef floating[:, :, ::contiguous] y = tape.y
    cdef floating[:, :, ::contiguous] gates = tape.gates if tape.z is None else tape.z
    cdef floating[:, :, ::contiguous] c = tape.c
    cdef floating[:, :, ::contiguous] norms = tape.norms
    cdef const floating[:, :, ::contiguous] recurrent = tape.masks.recurrent
    cdef const floating[:, :, ::contiguous] keep_h = tape.masks.zoneout_h
    cdef const floating[:, :, ::contiguous] keep_c = tape.masks.zoneout_c
    read_cell(&job.cell, cell, <floating *> NULL)
    read_extent(&job.extent, x.shape[0], x.shape[1], schedule)
    read_states(job, state, final, <floating *> NULL)
    job.x, job.y, job.gates, job.c = steps_of(x), steps_of(y), steps_of(gates), steps_of(c)
    job.recurrent, job.keep_h, job.keep_c = steps_of(recurrent), steps_of(keep_h), steps_of(keep_c)
    job.norms = steps_of(norms)
    job.outputs = tape.z is None
    return 0


@cython.boundscheck(True)
cdef int read_extent(Extent *extent, Py_ssize_t T, Py_ssize_t B, object schedule) except -1:
    cdef const Py_ssize_t[::1] lengths = schedule.lengths
    cdef const unsigned char[:, ::1] resets = None
    if schedule.resets is not None:
        resets = schedule.resets.view("uint8")      # booleans as the bytes that they are
    extent.T, extent.B, extent.reverse = T, B, schedule.reverse
    extent.lengths = &lengths[0] if B > 0 else NULL
    extent.resets = &resets[0, 0] if resets is not None and resets.size > 0 else NULL
    return 0


@cython.boundscheck(True)
def step(
    cell not None,                                           # IN   a Cell
    const floating[:, ::1] x not None,                       # IN   (B, I)
    tuple state not None,                                    # IN   (B, R), (B, H)
    tuple final not None,                                    # OUT  (B, R), (B, H)
):
    """Run one layer over one time step; see `clstm.reference.step`."""
    cdef Forward job
    if x.shape[0] == 0:
        return
    memset(&job, 0, sizeof(Forward))
    read_cell(&job.cell, cell, <floating *> NULL)
    read_states(&job, state, final, <floating *> NULL)
    job.extent.T, job.extent.B = 1, x.shape[0]
    job.x.start, job.x.by_time, job.x.by_row, job.x.n = <char *> &x[0, 0], 0, x.strides[0], x.shape[1]
    run_forward(&job, <floating *> NULL)


@cython.boundscheck(True)
cdef int read_states(Forward *job, tuple state, tuple final, const floating *like) except -1:
    cdef const floating[:, ::1] h_0 = state[0]
    cdef floating[:, ::1] h_n = final[0]
    cdef const floating[:, ::1] c_0
    cdef floating[:, ::1] c_n
    job.h_0, job.h_n = &h_0[0, 0], &h_n[0, 0]
    if job.cell.kind != RNN:
        c_0, c_n = state[1], final[1]
        job.c_0, job.c_n = &c_0[0, 0], &c_n[0, 0]
    return 0


@cython.boundscheck(True)
def backward(
    cell not None,                                           # IN   a Cell
    const floating[:, :, ::contiguous] x not None,           # IN   (T, B, I)
    tuple state not None,                                    # IN   (B, R), (B, H)
    schedule not None,                                       # IN   a Schedule
    tape not None,                                           # IN   a CellTape
    const floating[:, :, ::contiguous] dy not None,          # IN   (T, B, R)
    tuple dfinal not None,                                   # IN   (B, R), (B, H)
    floating[:, :, ::contiguous] dx,                         # OUT  (T, B, I), or None
    dcell,                                                   # OUT  a Cell, or None
    tuple dstate not None,                                   # OUT  (B, R), (B, H)
):
    """Walk `forward` back; see `clstm.reference.backward`."""
    cdef Backward job
    memset(&job, 0, sizeof(Backward))
    read_backward(&job, cell, x, state, schedule, tape, dy, dfinal, dx, dcell, dstate)
    run_backward(&job, <floating *> NULL)


@cython.boundscheck(True)
cdef int read_backward(Backward *job, object cell, const floating[:, :, ::contiguous] x, tuple state,
                       object schedule, object tape, const floating[:, :, ::contiguous] dy, tuple dfinal,
                       floating[:, :, ::contiguous] dx, object dcell, tuple dstate) except -1:
    """Turn what `backward` gets, and its caller keeps alive, into a job that is full of 0."""
    cdef const floating[:, :, ::contiguous] y = tape.y
    cdef const floating[:, :, ::contiguous] gates = tape.y
    cdef const floating[:, :, ::contiguous] c = tape.c
    cdef const floating[:, :, ::contiguous] norms = tape.norms
    cdef const floating[:, :, ::contiguous] recurrent = tape.masks.recurrent
    cdef const floating[:, :, ::contiguous] keep_h = tape.masks.zoneout_h
    cdef const floating[:, :, ::contiguous] keep_c = tape.masks.zoneout_c
    cdef const floating[:, ::1] h_0 = state[0]
    cdef const floating[:, ::1] dh_n = dfinal[0]
    cdef floating[:, ::1] dh_0 = dstate[0]
    cdef const floating[:, ::1] c_0, dc_n
    cdef floating[:, ::1] dc_0
    cdef Py_ssize_t B = x.shape[1]
    read_cell(&job.cell, cell, <floating *> NULL)
    if job.cell.narrow.precision:
        raise TypeError("cell: expected weights of floats, which can be trained, got narrow ones")
    read_extent(&job.extent, x.shape[0], B, schedule)
    if job.cell.kind != RNN:
        gates = tape.gates if job.cell.kind == LSTM else tape.z
    if y is None or gates is None or job.cell.kind != RNN and c is None or (
        job.cell.norm_x != NULL and norms is None
    ):
        raise TypeError("tape: expected all that forward can leave, got None")
    job.x, job.y, job.gates, job.c = steps_of(x), steps_of(y), steps_of(gates), steps_of(c)
    job.dy, job.dx, job.norms = steps_of(dy), steps_of(dx), steps_of(norms)
    job.recurrent, job.keep_h, job.keep_c = steps_of(recurrent), steps_of(keep_h), steps_of(keep_c)
    job.h_0, job.dh_n, job.dh_0 = rows_of(h_0, B), rows_of(dh_n, B), rows_of(dh_0, B)
    if dcell is not None:
        read_gradients(job, dcell, <floating *> NULL)
    if job.cell.kind != RNN:
        c_0, dc_n, dc_0 = state[1], dfinal[1], dstate[1]
        job.c_0, job.dc_n, job.dc_0 = rows_of(c_0, B), rows_of(dc_n, B), rows_of(dc_0, B)
    return 0


@cython.boundscheck(True)
cdef int read_gradients(Backward *job, object dcell, const floating *like) except -1:
    """Find where the gradients by the arrays of a cell go."""
    cdef floating[:, :] W_x = dcell.W_x
    cdef floating[:, :] W_h = dcell.W_h
    cdef floating[:, ::1] matrix
    cdef floating[::1] vector = dcell.bias
    job.dW_x, job.dW_x_by_column = &W_x[0, 0], lies_by_column(W_x)
    job.dW_h, job.dW_h_by_column = &W_h[0, 0], lies_by_column(W_h)
    job.dbias = &vector[0]
    if job.cell.peepholes != NULL:
        matrix = dcell.peepholes
        job.dpeepholes = &matrix[0, 0]
    if job.cell.W_r != NULL:
        matrix = dcell.W_r
        job.dW_r = &matrix[0, 0]
    if job.cell.norm_x != NULL:
        vector = dcell.norm_x
        job.dnorm_x = &vector[0]
        vector = dcell.norm_h
        job.dnorm_h = &vector[0]
        matrix = dcell.norm_c
        job.dnorm_c = &matrix[0, 0]
    return 0


# --------------------------------------------------------------------------------------------- several passes

def forward_all(tuple passes not None, bint stacked):
    """Run passes at once, or one after the other; see `clstm.reference.forward_all`."""
    if passes[0][0].bias.itemsize == sizeof(float):
        run_forward_all(passes, stacked, <float *> NULL)
    else:
        run_forward_all(passes, stacked, <double *> NULL)


def backward_all(tuple passes not None, bint stacked):
    """Walk passes back at once, or one after the other; see `clstm.reference.backward_all`."""
    if passes[0][0].bias.itemsize == sizeof(float):
        run_backward_all(passes, stacked, <float *> NULL)
    else:
        run_backward_all(passes, stacked, <double *> NULL)


cdef int run_forward_all(tuple passes, bint stacked, const floating *like) except -1:
    """Run passes, each with the arguments of `forward`; stacked: x of each is y of the one before."""
    cdef Py_ssize_t count = len(passes), k
    cdef Forward *jobs = <Forward *> take_jobs(count, sizeof(Forward))
    cdef const floating[:, :, ::contiguous] x
    cdef double work = 0
    cdef int threads = 1
    try:
        for k in range(count):
            cell, x, state, schedule, tape, final = passes[k]
            if x.shape[1] == 0:
                return 0
            read_forward(&jobs[k], cell, x, state, schedule, tape, final)
            work += work_of(&jobs[k].cell, total_steps(&jobs[k].extent))
        if count > 1:
            threads = threads_for_strips(&jobs[0].extent, &jobs[0].cell, count, work)
        if threads > 1:
            run_strips(jobs, False, count, stacked, threads, work, like)
        else:
            for k in range(count):
                run_forward(&jobs[k], like)
    finally:
        clstm_free(jobs)
    return 0


cdef int run_backward_all(tuple passes, bint stacked, const floating *like) except -1:
    """Run passes, each with the arguments of `backward`; stacked: dy of each is dx of the one before."""
    cdef Py_ssize_t count = len(passes), k
    cdef Backward *jobs = <Backward *> take_jobs(count, sizeof(Backward))
    cdef double work = 0
    cdef int threads = 1
    try:
        for k in range(count):
            cell, x, state, schedule, tape, dy, dfinal, dx, dcell, dstate = passes[k]
            read_backward[floating](&jobs[k], cell, x, state, schedule, tape, dy, dfinal, dx, dcell, dstate)
            work += 2 * work_of(&jobs[k].cell, total_steps(&jobs[k].extent))
        if count > 1:
            threads = threads_for_strips(&jobs[0].extent, &jobs[0].cell, count, work)
        if threads > 1:
            run_strips(jobs, True, count, stacked, threads, work, like)
        else:
            for k in range(count):
                run_backward(&jobs[k], like)
    finally:
        clstm_free(jobs)
    return 0


cdef void *take_jobs(Py_ssize_t count, size_t size) except NULL:
    """Return room for jobs, full of 0."""
    cdef void *jobs = clstm_alloc(count * size)
    if jobs == NULL:
        raise MemoryError("not enough memory for the passes of a layer")
    memset(jobs, 0, count * size)
    return jobs


include "_stream.pxi"


# --------------------------------------------------------------------------------------- layers without time

@cython.boundscheck(True)
def product(
    const floating[:, :] a not None,                         # IN   (N, K)
    const floating[:, :] b not None,                         # IN   (K, M)
    const floating[::1] start,                               # IN   (M,), or None
    floating[:, ::contiguous] out not None,                  # OUT  (N, M)
):
    """Multiply two matrices; see `clstm.reference.product`."""
    cdef Product job
    cdef Py_ssize_t N = a.shape[0], K = a.shape[1], M = b.shape[1], n, m
    if N == 0 or M == 0:
        return
    if K == 0:
        for n in range(N):
            for m in range(M):
                out[n, m] = start[m] if start is not None else 0
        return
    memset(&job, 0, sizeof(Product))
    job.N, job.K, job.M = N, K, M
    job.a, job.b = matrix_of(a), matrix_of(b)
    job.out, job.out_pitch = &out[0, 0], out.strides[0] // <Py_ssize_t> sizeof(floating)
    if start is not None:
        job.start = &start[0]
    run_product(&job, <floating *> NULL)


def add_rows(
    const floating[:, ::contiguous] rows not None,           # IN      (N, E)
    const Py_ssize_t[::1] places not None,                   # IN      (N,)
    floating[:, ::contiguous] out not None,                  # IN/OUT  (V, E)
):
    """Add rows where they belong; see `clstm.reference.add_rows`."""
    cdef Py_ssize_t N = rows.shape[0], E = rows.shape[1], n, j
    cdef fp_state caller
    cdef const floating *row
    cdef floating *to
    if E == 0:
        return
    with nogil:
        caller = flush_denormals()
        for n in range(N):
            row, to = &rows[n, 0], &out[places[n], 0]
            for j in range(E):
                to[j] += row[j]
        restore_denormals(caller)


# ------------------------------------------------------------------------------------------- memory for tapes

@cython.final
@cython.auto_pickle(False)
cdef class Block:
    """A block of memory.h as a buffer for arrays; it goes back when the last of them is gone."""

    cdef void *start
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.start = clstm_alloc(size) if size >= 0 else NULL
        self.size = size
        if self.start == NULL:
            raise MemoryError("not enough memory for a tape")

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.size, 0, flags)

    def __dealloc__(self):
        if not clstm_free(self.start):
            raise SystemError("something wrote beyond a tape")


# ----------------------------------------------------------------------------- the activations, for the tests

def sigmoid(const floating[::1] x not None, floating[::1] out not None):
    """Write 1 / (1 + exp(-x)) to out, with the vector function that the gates use."""
    activate(x, out, True)


def tanh(const floating[::1] x not None, floating[::1] out not None):
    """Write tanh(x) to out, with the vector function that the gates use."""
    activate(x, out, False)


cdef int activate(const floating[::1] x, floating[::1] out, bint logistic) except -1:
    cdef Workspace workspace
    cdef Py_ssize_t n = x.shape[0], j
    cdef floating *units
    workspace.count = 0
    workspace.failed = False
    units = <floating *> take(&workspace, lanes(<floating *> NULL) * sizeof(floating))
    if not workspace.failed:
        memset(units, 0, lanes(units) * sizeof(floating))
        for j in range(0, n, lanes(units)):
            copy_lanes(units, &x[j], n - j)
            if floating is float:
                activate_vector(<vec_f32 *> units, logistic)
            else:
                activate_vector(<vec_f64 *> units, logistic)
            copy_lanes(&out[j], units, n - j)
    return release(&workspace, False)


cdef inline void activate_vector(vec *x, bint logistic) noexcept nogil:
    x[0] = vec_sigmoid(x[0]) if logistic else vec_tanh(x[0])
