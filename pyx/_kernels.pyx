# The kernels: forward, step and backward of one layer in one direction, a whole sequence a call.  The
# equations and their numbers are those of src/clstm/reference.py, which has the same functions with the same
# arguments.
#
# Arguments are checked by the caller (_check.py); sizes are read from the views.  The last axis of every
# array is contiguous. Each entry gathers rows into dense, aligned, zero-padded workspaces, computes there
# without the GIL, and scatters the results.
#
# Notation
#   V            numbers in a vector; P = ceil(H / V) panels cover the hidden units, Hp = P V of them with padding
#   panel        the weights of V units, all four gates side by side: rows (k) of [i f g o] x V numbers
#   z            pre-activations, later gates: panel after panel, in each the [i f g o] x V of all rows
#   row          place in a workspace: sequences ordered by length, longest first, so that those still running are a prefix
#   s, t         step in the order of computation; time index (they differ in the reverse direction)
#   IN, OUT      what a pointer argument is read or written for

from libc.string cimport memcpy, memset

from threading import get_ident, main_thread

cdef extern from "simd.h" nogil:
    # Vectors are declared as numbers, so that formulas can be written; C then works on all lanes at once.
    ctypedef float vec_f32 "clstm_vec_f32"
    ctypedef double vec_f64 "clstm_vec_f64"
    enum:
        CLSTM_VECTOR_BYTES
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
    Py_ssize_t tile_rows "clstm_tile_rows"(Py_ssize_t width)
    void tile_f32 "clstm_tile_f32"(Py_ssize_t rows, Py_ssize_t width, const float *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const float *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   const float *start, Py_ssize_t start_row, Py_ssize_t start_next,
                                   float *sums, Py_ssize_t sums_row, Py_ssize_t sums_next)
    void tile_f64 "clstm_tile_f64"(Py_ssize_t rows, Py_ssize_t width, const double *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const double *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   const double *start, Py_ssize_t start_row, Py_ssize_t start_next,
                                   double *sums, Py_ssize_t sums_row, Py_ssize_t sums_next)
    void accumulate_f32 "clstm_accumulate_f32"(const float *a, const float *rows, Py_ssize_t depth, Py_ssize_t n, float *z)
    void accumulate_f64 "clstm_accumulate_f64"(const double *a, const double *rows, Py_ssize_t depth, Py_ssize_t n, double *z)
    ctypedef int fp_state "clstm_fp_state"
    fp_state flush_denormals "clstm_flush"()
    void restore_denormals "clstm_restore"(fp_state state)

cdef extern from "memory.h" nogil:
    void *clstm_alloc(size_t size)
    bint clstm_free(void *block)

cdef extern from "team.h" nogil:
    ctypedef void (*work_function "clstm_work")(void *job, int thread) noexcept
    ctypedef struct Team "clstm_team":
        int size
        int cancelled
        int signals
        double polled, unpolled
    void begin "clstm_begin"(Team *team, bint signals)
    bint barrier "clstm_barrier"(Team *team, int thread)
    bint stopped "clstm_stopped"(Team *team)
    void run_team "clstm_run"(int wanted, work_function work, void *job, size_t size, Team *team)
    double now "clstm_now"()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

ctypedef fused floating:
    float
    double

ctypedef fused vec:
    vec_f32
    vec_f64

VECTOR_BYTES = CLSTM_VECTOR_BYTES

# Threads a call may use, the calling one included; set by _threads.py.
cdef int max_threads = 1

cdef enum:
    # Rows that are projected, or whose gradients are accumulated, at once: enough to reuse each weight that
    # is loaded, few enough to stay in the caches.  More where the gradients of the weights do not fit them:
    # each chunk passes over all.
    CHUNK_ROWS = 96
    LARGE_CHUNK_ROWS = 384
    LARGE_WEIGHTS = 1 << 18     # H * (I + H)
    # Depth of a product that is walked at once where many rows share a panel: the part of the panel stays in
    # the L1 cache.
    BLOCK_DEPTH = 256
    # Cells of V units whose gates are computed together, at least.
    GATE_CELLS = 32
    # Rows from which on packing the weights pays.
    PACK_ROWS = 4
    # Multiplications between two looks at the clock: at least some ten, at most a hundred microseconds.
    POLL_WORK = 1000000


def set_num_threads(int n):
    """Set how many threads a call may use."""
    global max_threads
    max_threads = n


# ---------------------------------------------------------------------------------- one name for both types

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


cdef inline Py_ssize_t lanes(const floating *like) noexcept nogil:
    return LANES_F32 if floating is float else LANES_F64


# ------------------------------------------------------------------- the point-wise part, V units at a time

cdef inline void cell_forward(vec *z, vec *c) noexcept nogil:
    """Steps 2 and 3: z (IN pre-activations, OUT gates), c (IN c_prev, OUT c_t)."""
    cdef vec i = vec_sigmoid(z[0])
    cdef vec f = vec_sigmoid(z[1])
    cdef vec g = vec_tanh(z[2])
    cdef vec o = vec_sigmoid(z[3])
    z[0], z[1], z[2], z[3] = i, f, g, o
    c[0] = madd(f, c[0], i * g)


cdef inline vec hidden_forward(const vec *z, const vec *c) noexcept nogil:
    """Step 4: h from the gates and c_t.

    Steps 2 and 3 of several units come first: the processor works on more of them at once when each is a shorter chain.
    """
    return z[3] * vec_tanh(c[0])


cdef inline void cell_backward(vec i, vec f, vec g, vec o, vec c, vec c_prev, vec dh, vec *dc_carry, vec *dz) noexcept nogil:
    """Steps 4' to 2': dc_carry (IN dc_next * f_next, OUT dc * f), dz (OUT)."""
    cdef vec one = constant(1.0, i)
    cdef vec tanh_c = vec_tanh(c)
    cdef vec do = dh * tanh_c
    cdef vec dc = madd(dh * o, madd(-tanh_c, tanh_c, one), dc_carry[0])
    dz[0] = (dc * g) * (i * (one - i))
    dz[1] = (dc * c_prev) * (f * (one - f))
    dz[2] = (dc * i) * madd(-g, g, one)
    dz[3] = do * (o * (one - o))
    dc_carry[0] = dc * f


cdef inline void cell_units(floating *z, floating *c) noexcept nogil:
    if floating is float:
        cell_forward(<vec_f32 *> z, <vec_f32 *> c)
    else:
        cell_forward(<vec_f64 *> z, <vec_f64 *> c)


cdef inline void hidden_units(const floating *z, const floating *c, floating *h) noexcept nogil:
    if floating is float:
        (<vec_f32 *> h)[0] = hidden_forward(<const vec_f32 *> z, <const vec_f32 *> c)
    else:
        (<vec_f64 *> h)[0] = hidden_forward(<const vec_f64 *> z, <const vec_f64 *> c)


cdef inline void backward_units(const floating *gates, Py_ssize_t stride, const floating *c, const floating *c_prev,
                                const floating *dy, const floating *dh, floating *dc_carry, floating *dz) noexcept nogil:
    """Steps 4' to 2' of V units; the gates are `stride` apart, only dh, dc_carry and dz are aligned."""
    if floating is float:
        cell_backward(load_f32(gates), load_f32(gates + stride), load_f32(gates + 2 * stride), load_f32(gates + 3 * stride),
                      load_f32(c), load_f32(c_prev), load_f32(dy) + load_f32(dh), <vec_f32 *> dc_carry, <vec_f32 *> dz)
    else:
        cell_backward(load_f64(gates), load_f64(gates + stride), load_f64(gates + 2 * stride), load_f64(gates + 3 * stride),
                      load_f64(c), load_f64(c_prev), load_f64(dy) + load_f64(dh), <vec_f64 *> dc_carry, <vec_f64 *> dz)


# --------------------------------------------------------------------------------------------- the products

cdef void multiply(const floating *a, Py_ssize_t rows, Py_ssize_t a_row, const floating *panels,
                   Py_ssize_t vectors, Py_ssize_t depth, const floating *start, Py_ssize_t start_row, Py_ssize_t start_panel,
                   floating *sums, Py_ssize_t sums_row, Py_ssize_t sums_panel, Py_ssize_t first=0, Py_ssize_t stride=0,
                   bint descending=False) noexcept nogil:
    """sums[r, v] = start[r, v] + sum over k of a[r, k] * panels[k, v], k in order.

    a       IN      (rows, depth): rows a_row apart, or with a_row = 0 tiles of TILE rows, each (depth, TILE)
    panels  IN      `vectors` columns of vectors in panels of four (the last may be narrower), each (depth, width)
    start   IN      (rows, vectors), rows start_row apart, all the same row if that is 0, panels start_panel; may be sums
    sums    OUT     (rows, vectors), rows sums_row apart, panels sums_panel
    first, stride   with a stride only the tiles of TILE rows that begin at first, first + stride, ...
    descending      walk the panels from the last to the first
    """
    cdef Py_ssize_t V = lanes(a)
    cdef bint tiled = a_row == 0
    cdef Py_ssize_t a_tile = depth if tiled else a_row      # from the first row of a tile to that of the next, a row
    cdef Py_ssize_t a_step = tile_rows(4) if tiled else 1   # from k to k + 1
    cdef Py_ssize_t count = (vectors + 3) // 4, done = 0    # panels
    cdef Py_ssize_t v, r, k, width, height, block, step
    cdef floating *to
    if tiled:
        a_row = 1
    while done < count:
        # One row alone takes two panels at once: eight sums are enough to hide the latency of an addition,
        # four are not.
        v = 4 * (count - 1 - done if descending else done)
        if rows == 1 and done + 2 <= count and (v + 4 <= vectors if descending else v + 8 <= vectors):
            v -= 4 * descending
            width = 8
        else:
            width = min(4, vectors - v)
        done += 2 if width == 8 else 1
        to = sums + v // 4 * sums_panel
        height = 1 if width == 8 else tile_rows(4 if stride or tiled else width)
        step = stride if stride else height
        block = BLOCK_DEPTH if rows > step else depth
        k = 0
        while k < depth:
            block = min(block, depth - k)
            r = first
            while r < rows:
                if floating is float:
                    tile_f32(min(height, rows - r), width, a + r * a_tile + k * a_step, a_row, a_step,
                             panels + (v * depth + k * min(width, 4)) * V, 4 * V * depth, block,
                             <const floating *> to + r * sums_row if k else start + r * start_row + v // 4 * start_panel,
                             sums_row if k else start_row, sums_panel if k else start_panel,
                             to + r * sums_row, sums_row, sums_panel)
                else:
                    tile_f64(min(height, rows - r), width, a + r * a_tile + k * a_step, a_row, a_step,
                             panels + (v * depth + k * min(width, 4)) * V, 4 * V * depth, block,
                             <const floating *> to + r * sums_row if k else start + r * start_row + v // 4 * start_panel,
                             sums_row if k else start_row, sums_panel if k else start_panel,
                             to + r * sums_row, sums_row, sums_panel)
                r += step
            k += block


# Either each thread owns some rows and all units, and steps need no barrier, or all rows and some units, and
# its part of the weights stays in its own cache.  Sums are never split, so results have the same bits for any
# number of threads.
cdef struct Share:
    Py_ssize_t row, row_stride          # rows row .. row + TILE of every row_stride
    Py_ssize_t panel, panel_end         # of the P panels of units, in multiples of four


cdef void recur(const floating *a, Py_ssize_t a_row, const floating *panels, Py_ssize_t depth, Py_ssize_t rows, Share share,
                Py_ssize_t P, bint descending, const floating *start, Py_ssize_t start_row, Py_ssize_t start_panel,
                floating *z, Py_ssize_t z_panel, floating *c, floating *h) noexcept nogil:
    """One forward step of the running rows: the product that completes 1, and 2 to 4 while a panel's part of z is in the cache.

    Walking the panels up and down on alternate steps re-uses what the last step left in the cache.
    a IN (rows, depth), rows a_row apart, h_prev or [x; h_prev]; panels IN (P, depth, 4V); start IN what is there of 1, rows
    start_row apart, panels start_panel, may be z; z OUT gates, panels of (rows, 4V), z_panel apart; c IN/OUT, h OUT (rows, Hp)
    """
    cdef Py_ssize_t V = lanes(a)
    # Panels between the product and the gates: their z stays in the L1 cache, and there are cells enough to
    # overlap.
    cdef Py_ssize_t group = max(1, GATE_CELLS // rows)
    cdef Py_ssize_t groups = (share.panel_end - share.panel + group - 1) // group
    cdef Py_ssize_t n, p, r, q, first, count, hidden
    for n in range(groups):
        first = share.panel + group * (groups - 1 - n if descending else n)
        count = min(group, share.panel_end - first)
        multiply(a, rows, a_row, panels + first * depth * 4 * V, 4 * count, depth,
                 start + first * start_panel, start_row, start_panel, z + first * z_panel, 4 * V, z_panel,
                 share.row, share.row_stride, descending)
        for hidden in range(2):
            r = share.row
            while r < rows:
                for q in range(r, min(r + tile_rows(4), rows)):
                    for p in range(first, first + count):
                        if hidden:
                            hidden_units(z + p * z_panel + q * 4 * V, c + (q * P + p) * V, h + (q * P + p) * V)
                        else:
                            cell_units(z + p * z_panel + q * 4 * V, c + (q * P + p) * V)
                r += share.row_stride


# ----------------------------------------------------------------------------- sharing a call among threads

cdef Share share_of(bint by_units, int thread, int size, Py_ssize_t P) noexcept nogil:
    cdef Share share
    cdef Py_ssize_t fours = (P + 3) // 4
    if by_units:
        share.row, share.row_stride = 0, tile_rows(4)
        share.panel, share.panel_end = min(P, 4 * (fours * thread // size)), min(P, 4 * (fours * (thread + 1) // size))
    else:
        share.row, share.row_stride = thread * tile_rows(4), size * tile_rows(4)
        share.panel, share.panel_end = 0, P
    return share


cdef bint polls(double work) except -1:
    """Whether a call of so much work looks for signals: if it is long, and in the thread that runs the handlers.

    That is Python's main thread; after a fork, the one that forked.  No other may take the GIL in the middle of a call: a
    daemon thread may be in one when the interpreter ends, and then has no thread state to take it with.  Only the end
    of `with nogil` is prepared for that.
    """
    return work >= POLL_WORK and get_ident() == main_thread().ident


cdef inline void poll(Team *team, int thread, double work, fp_state caller) noexcept nogil:
    """Look for signals now and then, in the thread that runs handlers; an exception cancels the call.

    A look at the clock costs as much as a small step, so it waits for enough `work`, in multiplications.
    Handlers are Python code and run in the caller's floating-point environment.  None runs while an exception is on its way.
    """
    if thread != 0 or not team.signals or team.cancelled:
        return
    team.unpolled += work
    if team.unpolled < POLL_WORK:
        return
    team.unpolled = 0
    if now() - team.polled > 0.05:
        restore_denormals(caller)
        with gil:
            if PyErr_CheckSignals() < 0:
                team.cancelled = True
        flush_denormals()
        team.polled = now()


include "_layout.pxi"


cdef int threads_for(const Schedule *schedule, Py_ssize_t I, Py_ssize_t H, Py_ssize_t P, int threads,
                     bint *by_units) noexcept nogil:
    """Return how many of `threads` pay for a pass over all rows, and (OUT) what they share.

    Waking a thread takes tens of microseconds, a barrier one or two; the bounds are in multiplications, some ten to fifty of
    which take a nanosecond.
    """
    cdef double each = schedule.total / max(1.0, <double> schedule.steps) * 4.0 * H * H     # of a step
    cdef Py_ssize_t tiles = (schedule.B + tile_rows(4) - 1) // tile_rows(4)
    by_units[0] = each >= 2e6 or (each >= 1.3e5 and tiles < 4 * threads)
    if schedule.total < PACK_ROWS or schedule.total * 4.0 * H * (I + H) < 4e6:
        return 1
    return <int> max(1, min(threads, (P + 3) // 4 if by_units[0] else tiles))


# -------------------------------------------------------------------------------------------------- forward

cdef struct Forward:
    Team team
    Schedule schedule
    Py_ssize_t I, H
    bint by_units
    bint packed             # the weights are worth packing; else they are read as they lie, and there is no chunk_x
    Sequence x              # IN
    Sequence y, gates, c    # OUT; may be none
    const void *W_x
    const void *W_h
    const void *bias
    void *h_n               # OUT
    void *c_n
    void *panels_x          # (P, I, 4V)
    void *panels_h          # (P, H, 4V)
    void *bias_z            # (P, 4, V)
    void *chunk_x           # (rows, I)
    void *chunk_z           # (P, rows, 4, V)
    void *cell              # (B, Hp)
    void *hidden[2]         # (B, Hp) before and after a step, in turn


def forward(
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[::1] bias not None,              # IN   (4H,)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const floating[:, ::1] c_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    bint reverse,
    floating[:, :, :] y not None,                   # OUT  (T, B, H)
    floating[:, :, :] gates,                        # OUT  (T, B, 4H) or None
    floating[:, :, :] c,                            # OUT  (T, B, H) or None
    floating[:, ::1] h_n not None,                  # OUT  (B, H)
    floating[:, ::1] c_n not None,                  # OUT  (B, H)
):
    """Run one layer in one direction over whole sequences; see `clstm.reference.forward`."""
    cdef Forward job
    job.x, job.y, job.gates, job.c = sequence(x), sequence(y), sequence(gates), sequence(c)
    if x.shape[1] > 0:
        run_forward(&job, x.shape[0], &lengths[0], reverse, W_x, W_h, bias, h_0, c_0, h_n, c_n)


def step(
    const floating[:, ::1] x not None,              # IN   (B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[::1] bias not None,              # IN   (4H,)
    const floating[:, ::1] h_prev not None,         # IN   (B, H)
    const floating[:, ::1] c_prev not None,         # IN   (B, H)
    floating[:, ::1] h not None,                    # OUT  (B, H)
    floating[:, ::1] c not None,                    # OUT  (B, H)
):
    """Run one layer over one time step; see `clstm.reference.step`."""
    cdef Forward job
    memset(&job, 0, sizeof(job))                    # no y and no tape
    if x.shape[0] > 0:
        job.x.start, job.x.by_row, job.x.n = <char *> &x[0, 0], x.strides[0], x.shape[1]
        run_forward(&job, 1, NULL, False, W_x, W_h, bias, h_prev, c_prev, h, c)


cdef int run_forward(
    Forward *job, Py_ssize_t T, const Py_ssize_t *lengths, bint reverse, const floating[:, ::1] W_x,
    const floating[:, ::1] W_h, const floating[::1] bias, const floating[:, ::1] h_0, const floating[:, ::1] c_0,
    floating[:, ::1] h_n, floating[:, ::1] c_n,
) except -1:
    """Complete a job that has its sequences, run it, and release its memory; without lengths each row has one step."""
    cdef Py_ssize_t B = h_0.shape[0], I = job.x.n, H = W_h.shape[0]
    cdef Py_ssize_t V = lanes(&bias[0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t most, b, r
    cdef int threads = max_threads          # read with the GIL
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(4.0 * T * B * H * (I + H)))
    with nogil:
        job.schedule = plan(lengths, B, reverse, I, H, &workspace)
        job.I, job.H = I, H
        job.W_x, job.W_h, job.bias = &W_x[0, 0], &W_h[0, 0], &bias[0]
        job.h_n, job.c_n = &h_n[0, 0], &c_n[0, 0]
        job.packed = job.schedule.total >= PACK_ROWS
        most = max(B, job.schedule.chunk_rows) if job.packed else B
        if job.packed:
            job.panels_x = take(&workspace, I * 4 * Hp * sizeof(floating))
            job.panels_h = take(&workspace, H * 4 * Hp * sizeof(floating))
            job.chunk_x = take(&workspace, most * I * sizeof(floating))
        job.bias_z = take(&workspace, 4 * Hp * sizeof(floating))
        job.chunk_z = take(&workspace, most * 4 * Hp * sizeof(floating))
        job.cell = take(&workspace, B * Hp * sizeof(floating))
        job.hidden[0] = take(&workspace, B * Hp * sizeof(floating))
        job.hidden[1] = take(&workspace, B * Hp * sizeof(floating))
        if not workspace.failed:
            memset(job.cell, 0, B * Hp * sizeof(floating))
            memset(job.hidden[0], 0, B * Hp * sizeof(floating))
            for r in range(B):
                b = job.schedule.order[r]
                memcpy(<floating *> job.cell + r * Hp, &c_0[b, 0], H * sizeof(floating))
                memcpy(<floating *> job.hidden[0] + r * Hp, &h_0[b, 0], H * sizeof(floating))
                if job.schedule.length[r] == 0:
                    memcpy(&h_n[b, 0], &h_0[b, 0], H * sizeof(floating))
                    memcpy(&c_n[b, 0], &c_0[b, 0], H * sizeof(floating))
            zero_padding(&job.y, &job.schedule, T, sizeof(floating))
            threads = threads_for(&job.schedule, I, H, P, threads, &job.by_units)
            if floating is float:
                run_team(threads, forward_f32, job, sizeof(Forward), &job.team)
            else:
                run_team(threads, forward_f64, job, sizeof(Forward), &job.team)
    return release(&workspace, job.team.cancelled)


cdef void forward_f32(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    if (<Forward *> job).packed:
        forward_part(<Forward *> job, thread, caller, <float *> NULL)
    else:
        forward_unpacked(<Forward *> job, <float *> NULL)
    restore_denormals(caller)


cdef void forward_f64(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    if (<Forward *> job).packed:
        forward_part(<Forward *> job, thread, caller, <double *> NULL)
    else:
        forward_unpacked(<Forward *> job, <double *> NULL)
    restore_denormals(caller)


cdef void forward_part(Forward *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread does of a forward pass."""
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.I, H = job.H, V = lanes(like)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t start = 0, end, rows, row, row_end, n, r, s
    cdef Py_ssize_t size = team.size
    cdef floating *chunk_x = <floating *> job.chunk_x
    cdef floating *chunk_z = <floating *> job.chunk_z
    cdef floating *z
    cdef Share share

    pack(<const floating *> job.W_x, I, H, I * thread // size, I * (thread + 1) // size, <floating *> job.panels_x)
    pack(<const floating *> job.W_h, H, H, H * thread // size, H * (thread + 1) // size, <floating *> job.panels_h)
    if thread == 0:
        pack_row(<const floating *> job.bias, H, 0, P, 4 * V, <floating *> job.bias_z)
    if not barrier(team, thread):
        return

    while start < schedule.steps:
        # 1, the part of x: for all steps of the chunk at once.
        end = chunk_end(schedule, start, &rows)
        row, row_end = rows * thread // team.size, rows * (thread + 1) // team.size
        n = 0
        for s in range(start, end):
            for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
                memcpy(chunk_x + (n + r) * I, at(&job.x, time_of(schedule, r, s), schedule.order[r]), I * sizeof(floating))
            n += schedule.active[s]
        multiply(chunk_x + row * I, row_end - row, I, <const floating *> job.panels_x, 4 * P, I,
                 <const floating *> job.bias_z, 0, 4 * V, chunk_z + row * 4 * V, 4 * V, rows * 4 * V)
        if not barrier(team, thread):
            return

        # 1, the part of h, and 2 to 4: step by step.
        z = chunk_z
        size = team.size
        share = share_of(job.by_units, thread, size, P)
        for s in range(start, end):
            recur(<const floating *> job.hidden[s % 2], Hp, <const floating *> job.panels_h, H, schedule.active[s], share,
                  P, s % 2, z, 4 * V, rows * 4 * V, z, rows * 4 * V,
                  <floating *> job.cell, <floating *> job.hidden[(s + 1) % 2])
            scatter_step(job, share, s, P, z, rows * 4 * V)
            z += schedule.active[s] * 4 * V
            poll(team, thread, 4.0 * schedule.active[s] * H * (I + H), caller)
            if stopped(team) or (job.by_units and not barrier(team, thread)):
                return
            if team.size < size:                # the barrier has left this thread alone
                size = team.size
                share = share_of(job.by_units, thread, size, P)
        start = end
        if not barrier(team, thread):
            return


cdef void forward_unpacked(Forward *job, const floating *like) noexcept nogil:
    """A forward pass of so few rows that packing the weights would take longer than reading them as they lie."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.I, H = job.H, V = lanes(like)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Share share = share_of(False, 0, 1, P)
    cdef floating *z = <floating *> job.chunk_z
    cdef Py_ssize_t r, s, rows
    for s in range(schedule.steps):
        rows = schedule.active[s]
        for r in range(rows):
            unpacked_row(<const floating *> at(&job.x, time_of(schedule, r, s), schedule.order[r]), I,
                         <const floating *> job.hidden[s % 2] + r * P * V, H, <const floating *> job.W_x,
                         <const floating *> job.W_h, <const floating *> job.bias, <floating *> job.bias_z,
                         z + r * 4 * V, rows * 4 * V, <floating *> job.cell + r * P * V,
                         <floating *> job.hidden[(s + 1) % 2] + r * P * V)
        scatter_step(job, share, s, P, z, rows * 4 * V)


cdef void unpacked_row(const floating *x, Py_ssize_t I, const floating *h_prev, Py_ssize_t H, const floating *W_x,
                       const floating *W_h, const floating *bias, floating *flat, floating *z, Py_ssize_t z_panel,
                       floating *c, floating *h) noexcept nogil:
    """One step of one row; flat (4H,) is for 1 with its gates side by side.

    z OUT gates, panels of (4V,), z_panel apart; c IN/OUT, h OUT (Hp,)
    """
    cdef Py_ssize_t V = lanes(x), p
    cdef Py_ssize_t P = (H + V - 1) // V
    memcpy(flat, bias, 4 * H * sizeof(floating))
    if floating is float:
        accumulate_f32(x, W_x, I, 4 * H, flat)
        accumulate_f32(h_prev, W_h, H, 4 * H, flat)
    else:
        accumulate_f64(x, W_x, I, 4 * H, flat)
        accumulate_f64(h_prev, W_h, H, 4 * H, flat)
    pack_row(flat, H, 0, P, z_panel, z)
    for p in range(P):
        cell_units(z + p * z_panel, c + p * V)
    for p in range(P):
        hidden_units(z + p * z_panel, c + p * V, h + p * V)


cdef void scatter_step(Forward *job, Share share, Py_ssize_t s, Py_ssize_t P, const floating *z,
                       Py_ssize_t z_panel) noexcept nogil:
    """Copy what a step has computed to the caller's arrays: the rows and units of one thread."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t V = lanes(z), H = job.H
    cdef Py_ssize_t u = share.panel * V                                         # the first unit
    cdef Py_ssize_t size = (min(H, share.panel_end * V) - u) * sizeof(floating)
    cdef Py_ssize_t r = share.row, q, t, b
    cdef const floating *h = <const floating *> job.hidden[(s + 1) % 2] + u
    cdef const floating *c = <const floating *> job.cell + u
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            if job.y.start != NULL:
                memcpy(<floating *> at(&job.y, t, b) + u, h + q * P * V, size)
            if job.gates.start != NULL:
                unpack_row(z + q * 4 * V, z_panel, H, share.panel, share.panel_end, <floating *> at(&job.gates, t, b))
                memcpy(<floating *> at(&job.c, t, b) + u, c + q * P * V, size)
            if q >= schedule.active[s + 1]:     # the row's last step
                memcpy(<floating *> job.h_n + b * H + u, h + q * P * V, size)
                memcpy(<floating *> job.c_n + b * H + u, c + q * P * V, size)
        r += share.row_stride


# ------------------------------------------------------------------------------------------------- backward

cdef struct Backward:
    Team team
    Schedule schedule
    Py_ssize_t I, H
    bint by_units
    Sequence dy, x, y, gates, c     # IN
    Sequence dx                     # OUT
    const void *W_x
    const void *W_h
    const void *h_0
    const void *c_0
    void *dW_x                      # OUT
    void *dW_h
    void *dbias
    void *panels_x                  # W_x transposed, (4Hp, I) in panels
    void *panels_h                  # W_h transposed, (4Hp, H) in panels
    void *chunk_a                   # [x; h_prev; 1], so that the bias is one more weight: (I + H + 1, rows) in tiles
    void *chunk_dz                  # (rows, P, 4, V)
    void *panels_dz                 # the same as (P, rows, 4, V)
    void *chunk_dx                  # (rows, Ip)
    void *dW                        # (P, I + H + 1, 4, V)
    void *dh                        # (B, Hp) from later steps
    void *dc                        # (B, Hp) from later steps, times f
    void *lanes                     # [i f g o c c_prev dy] x V for each thread
    void *zeros                     # a row of 0, as wide as H and I
    Py_ssize_t *ends                # of the chunks


def backward(
    const floating[:, :, :] dy not None,            # IN   (T, B, H)
    const floating[:, ::1] dh_n not None,           # IN   (B, H)
    const floating[:, ::1] dc_n not None,           # IN   (B, H)
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const floating[:, ::1] c_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    bint reverse,
    const floating[:, :, :] y not None,             # IN   (T, B, H)
    const floating[:, :, :] gates not None,         # IN   (T, B, 4H)
    const floating[:, :, :] c not None,             # IN   (T, B, H)
    floating[:, :, :] dx not None,                  # OUT  (T, B, I)
    floating[:, ::1] dW_x not None,                 # OUT  (I, 4H)
    floating[:, ::1] dW_h not None,                 # OUT  (H, 4H)
    floating[::1] dbias not None,                   # OUT  (4H,)
    floating[:, ::1] dh_0 not None,                 # OUT  (B, H)
    floating[:, ::1] dc_0 not None,                 # OUT  (B, H)
):
    """Walk `forward` back; see `clstm.reference.backward`."""
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W_h.shape[0]
    cdef Py_ssize_t V = lanes(&dbias[0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t Ip = (I + V - 1) // V * V
    cdef Py_ssize_t K = I + H + 1
    cdef Py_ssize_t most, r
    cdef int threads = max_threads          # read with the GIL
    cdef Workspace workspace
    cdef Backward job
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(4.0 * T * B * H * (I + H)))
    with nogil:
        job.schedule = plan(&lengths[0] if B > 0 else NULL, B, reverse, I, H, &workspace)
        job.I, job.H = I, H
        job.dy, job.x, job.y, job.gates, job.c = sequence(dy), sequence(x), sequence(y), sequence(gates), sequence(c)
        job.dx = sequence(dx)
        job.W_x, job.W_h = &W_x[0, 0], &W_h[0, 0]
        job.dW_x, job.dW_h, job.dbias = &dW_x[0, 0], &dW_h[0, 0], &dbias[0]
        if B > 0:
            job.h_0, job.c_0 = &h_0[0, 0], &c_0[0, 0]
        most = max(B, job.schedule.chunk_rows)
        threads = threads_for(&job.schedule, I, H, P, threads, &job.by_units)
        job.panels_x = take(&workspace, Ip * 4 * Hp * sizeof(floating))
        job.panels_h = take(&workspace, Hp * 4 * Hp * sizeof(floating))
        job.chunk_a = take(&workspace, most * (K + tile_rows(4)) * sizeof(floating))
        job.chunk_dz = take(&workspace, most * 4 * Hp * sizeof(floating))
        job.panels_dz = take(&workspace, most * 4 * Hp * sizeof(floating))
        job.chunk_dx = take(&workspace, most * Ip * sizeof(floating))
        job.dW = take(&workspace, K * 4 * Hp * sizeof(floating))
        job.dh = take(&workspace, B * Hp * sizeof(floating))
        job.dc = take(&workspace, B * Hp * sizeof(floating))
        job.lanes = take(&workspace, threads * 7 * V * sizeof(floating))
        job.zeros = take(&workspace, max(Hp, Ip) * sizeof(floating))
        job.ends = <Py_ssize_t *> take(&workspace, job.schedule.steps * sizeof(Py_ssize_t))
        if not workspace.failed:
            memset(job.dW, 0, K * 4 * Hp * sizeof(floating))
            memset(job.dh, 0, B * Hp * sizeof(floating))
            memset(job.dc, 0, B * Hp * sizeof(floating))
            memset(job.lanes, 0, threads * 7 * V * sizeof(floating))
            memset(job.zeros, 0, max(Hp, Ip) * sizeof(floating))
            for r in range(B):
                memcpy(<floating *> job.dh + r * Hp, &dh_n[job.schedule.order[r], 0], H * sizeof(floating))
                memcpy(<floating *> job.dc + r * Hp, &dc_n[job.schedule.order[r], 0], H * sizeof(floating))
            zero_padding(&job.dx, &job.schedule, T, sizeof(floating))
            if floating is float:
                run_team(threads, backward_f32, &job, sizeof(job), &job.team)
            else:
                run_team(threads, backward_f64, &job, sizeof(job), &job.team)
            for r in range(B):
                memcpy(&dh_0[job.schedule.order[r], 0], <floating *> job.dh + r * Hp, H * sizeof(floating))
                memcpy(&dc_0[job.schedule.order[r], 0], <floating *> job.dc + r * Hp, H * sizeof(floating))
    release(&workspace, job.team.cancelled)


cdef void backward_f32(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    backward_part(<Backward *> job, thread, caller, <float *> NULL)
    restore_denormals(caller)


cdef void backward_f64(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    backward_part(<Backward *> job, thread, caller, <double *> NULL)
    restore_denormals(caller)


cdef void backward_part(Backward *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread does of a backward pass."""
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.I, H = job.H, V = lanes(like)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t Ip = (I + V - 1) // V * V
    cdef Py_ssize_t K = I + H + 1
    cdef Py_ssize_t size = team.size
    cdef Py_ssize_t chunks = 0, start = 0, rows, row, row_end, n, r, s, k
    cdef floating *chunk_dz = <floating *> job.chunk_dz
    cdef floating *chunk_dx = <floating *> job.chunk_dx
    cdef floating *dW = <floating *> job.dW
    cdef Share share

    pack_transposed(<const floating *> job.W_x, I, H, P * thread // size, P * (thread + 1) // size, <floating *> job.panels_x)
    pack_transposed(<const floating *> job.W_h, H, H, P * thread // size, P * (thread + 1) // size, <floating *> job.panels_h)
    while start < schedule.steps:
        start = chunk_end(schedule, start, &rows)
        if thread == 0:
            job.ends[chunks] = start
        chunks += 1
    if not barrier(team, thread):
        return

    # The chunks of the forward pass, the last one first.
    while chunks > 0:
        chunks -= 1
        start = job.ends[chunks - 1] if chunks else 0
        chunk_end(schedule, start, &rows)
        row, row_end = rows * thread // team.size, rows * (thread + 1) // team.size
        gather_operands(job, start, job.ends[chunks], row, row_end, rows, like)

        # 4' to 2', and the carry to the step before.
        n = rows
        share = share_of(job.by_units, thread, team.size, P)
        for s in range(job.ends[chunks] - 1, start - 1, -1):
            n -= schedule.active[s]
            differentiate_step(job, share, thread, s, n, rows, like)
            poll(team, thread, 4.0 * schedule.active[s] * H * (I + H), caller)
            if stopped(team) or (job.by_units and not barrier(team, thread)):
                return
            share = share_of(job.by_units, thread, team.size, P)    # a barrier may have left this thread alone
            carry_back(job, share, s, chunk_dz + n * 4 * Hp)
        if not barrier(team, thread):
            return

        # 1': the sums over all rows of the chunk are products.  Each thread has some columns of dW, and some
        # rows of dx.
        size = team.size
        k = P * thread // size
        multiply(<const floating *> job.chunk_a, K, 0, <const floating *> job.panels_dz + k * rows * 4 * V,
                 4 * (P * (thread + 1) // size - k), rows,
                 dW + k * K * 4 * V, 4 * V, K * 4 * V, dW + k * K * 4 * V, 4 * V, K * 4 * V)
        row, row_end = rows * thread // size, rows * (thread + 1) // size
        multiply(chunk_dz + row * 4 * Hp, row_end - row, 4 * Hp, <const floating *> job.panels_x, Ip // V, 4 * Hp,
                 <const floating *> job.zeros, 0, 4 * V, chunk_dx + row * Ip, Ip, 4 * V)
        n = 0
        for s in range(start, job.ends[chunks]):
            for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
                memcpy(at(&job.dx, time_of(schedule, r, s), schedule.order[r]), chunk_dx + (n + r) * Ip, I * sizeof(floating))
            n += schedule.active[s]
        if not barrier(team, thread):
            return

    for k in range(K * thread // team.size, K * (thread + 1) // team.size):
        unpack_row(dW + k * 4 * V, K * 4 * V, H, 0, P,
                   <floating *> job.dW_x + k * 4 * H if k < I else
                   <floating *> job.dW_h + (k - I) * 4 * H if k < I + H else <floating *> job.dbias)


cdef void gather_operands(Backward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t row, Py_ssize_t row_end, Py_ssize_t rows,
                          const floating *like) noexcept nogil:
    """Rows row .. row_end of [x; h_prev; 1], what the weights were multiplied with, for the steps start .. end."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.I, H = job.H, n = 0, r, s, b
    cdef const floating *h_prev
    cdef floating one = 1
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            b = schedule.order[r]
            h_prev = <const floating *> (at(&job.y, time_of(schedule, r, s - 1), b) if s
                                         else <char *> job.h_0 + b * H * sizeof(floating))
            into_tiles(<const floating *> at(&job.x, time_of(schedule, r, s), b), I, 0, n + r, rows, <floating *> job.chunk_a)
            into_tiles(h_prev, H, I, n + r, rows, <floating *> job.chunk_a)
            into_tiles(&one, 1, I + H, n + r, rows, <floating *> job.chunk_a)
        n += schedule.active[s]


cdef void differentiate_step(Backward *job, Share share, int thread, Py_ssize_t s, Py_ssize_t n, Py_ssize_t rows,
                             const floating *like) noexcept nogil:
    """Steps 4' to 2' for the rows and units of one thread; the step's rows begin with row n of the chunk."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t H = job.H, V = lanes(like)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef floating *padded = <floating *> job.lanes + thread * 7 * V
    cdef const floating *gates
    cdef const floating *c
    cdef const floating *c_prev
    cdef const floating *dy
    cdef floating *dh
    cdef floating *dc
    cdef floating *dz
    cdef Py_ssize_t r = share.row, q, t, b, p, width
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            gates = <const floating *> at(&job.gates, t, b)
            c = <const floating *> at(&job.c, t, b)
            c_prev = <const floating *> at(&job.c, time_of(schedule, q, s - 1), b) if s else <const floating *> job.c_0 + b * H
            dy = <const floating *> at(&job.dy, t, b)
            for p in range(share.panel, share.panel_end):
                dh = <floating *> job.dh + (q * P + p) * V
                dc = <floating *> job.dc + (q * P + p) * V
                dz = <floating *> job.chunk_dz + ((n + q) * P + p) * 4 * V
                width = H - p * V
                if width >= V:
                    backward_units(gates + p * V, H, c + p * V, c_prev + p * V, dy + p * V, dh, dc, dz)
                else:                           # the last units: the rows of the caller have no padding
                    pack_row(gates, H, p, p + 1, 0, padded)
                    copy_lanes(padded + 4 * V, c + p * V, width)
                    copy_lanes(padded + 5 * V, c_prev + p * V, width)
                    copy_lanes(padded + 6 * V, dy + p * V, width)
                    backward_units(padded, V, padded + 4 * V, padded + 5 * V, padded + 6 * V, dh, dc, dz)
                memcpy(<floating *> job.panels_dz + (p * rows + n + q) * 4 * V, dz, 4 * V * sizeof(floating))
        r += share.row_stride


cdef void carry_back(Backward *job, Share share, Py_ssize_t s, const floating *dz) noexcept nogil:
    """dh of the step before, dz @ W_h.T, for the rows and units of one thread."""
    cdef Py_ssize_t V = lanes(dz)
    cdef Py_ssize_t P = (job.H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    multiply(dz, job.schedule.active[s], 4 * Hp, <const floating *> job.panels_h + share.panel * V * 4 * Hp,
             share.panel_end - share.panel, 4 * Hp, <const floating *> job.zeros, 0, 4 * V,
             <floating *> job.dh + share.panel * V, Hp, 4 * V, share.row, share.row_stride)


# --------------------------------------------------------------------------- the activations, for the tests

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
    units = <floating *> take(&workspace, CLSTM_VECTOR_BYTES)
    if not workspace.failed:
        memset(units, 0, lanes(units) * sizeof(floating))
        for j in range(0, n, lanes(units)):
            copy_lanes(units, &x[j], n - j)
            if floating is float:
                (<vec_f32 *> units)[0] = sigmoid_f32((<vec_f32 *> units)[0]) if logistic else tanh_f32((<vec_f32 *> units)[0])
            else:
                (<vec_f64 *> units)[0] = sigmoid_f64((<vec_f64 *> units)[0]) if logistic else tanh_f64((<vec_f64 *> units)[0])
            copy_lanes(&out[j], units, n - j)
    return release(&workspace, False)


include "_stream.pxi"
include "_rnn.pxi"
include "_step.pxi"
