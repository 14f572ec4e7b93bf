# Who computes what and when: the order of rows, chunks of steps, shares of threads, signals; memory for a
# call.  Included by _kernels.pyx.

cdef enum:
    # Rows of a chunk, those of all its steps: they are projected, or their gradients accumulated, at once.
    # Enough to reuse each weight that is loaded, few enough to stay in the caches.  More where the gradients
    # of the weights do not fit them: each chunk passes over all.
    CHUNK_ROWS = 96
    LARGE_CHUNK_ROWS = 384
    LARGE_WEIGHTS = 1 << 18     # H * (I + H)
    # Rows of all steps together from which on packing the weights pays.
    PACK_ROWS = 4

# All in multiplications, some ten to fifty of which take a nanosecond.
# Of a chunk and one gate, at most: no signals are looked for during its products, a tenth of a second.
cdef double CHUNK_WORK = 5e8
# Between two looks at the clock: ten to a hundred microseconds.
cdef double POLL_WORK = 1e6
# Of a call that is worth waking threads, which takes tens of microseconds.
cdef double TEAM_WORK = 4e6
# Of a step from which on threads share units: a barrier, a microsecond or two, is cheap.
cdef double UNITS_WORK = 2e6
# The same where there are too few rows for the threads to share.
cdef double FEW_ROWS_WORK = 1.3e5
# Of a step below which it keeps the GIL: others wait a few microseconds.
cdef double HOLD_GIL_WORK = 1.2e5

cdef double POLL_SECONDS = 0.05


# ------------------------------------------------------------------------------------------- memory of a call

cdef struct Workspace:
    void *blocks[64]
    Py_ssize_t count
    bint failed


cdef void *take(Workspace *workspace, Py_ssize_t size) noexcept nogil:
    """Return an aligned block of `size` bytes that `release` frees; on failure NULL, and workspace.failed."""
    cdef void *block = clstm_alloc(size)
    if block == NULL:
        workspace.failed = True
    workspace.blocks[workspace.count] = block
    workspace.count += 1
    return block


cdef void *take_zeros(Workspace *workspace, Py_ssize_t size) noexcept nogil:
    """As `take`, filled with zeros."""
    cdef void *block = take(workspace, size)
    if block != NULL:
        memset(block, 0, size)
    return block


cdef int release(Workspace *workspace, bint cancelled) except -1:
    """Free all blocks; raise if a signal handler did, if a block could not be had, or (debug) was overrun."""
    cdef Py_ssize_t n
    cdef bint intact = True
    for n in range(workspace.count):
        if not clstm_free(workspace.blocks[n]):
            intact = False
    workspace.count = 0
    if cancelled:
        return -1           # the exception is set
    if workspace.failed:
        raise MemoryError("not enough memory for the workspace of a layer")
    if not intact:
        raise SystemError("a kernel wrote beyond its workspace")
    return 0


# --------------------------------------------------------------------------------------- arrays of the caller

cdef struct Steps:
    char *start                         # an array (T, B, n) of the caller; NULL if there is none
    Py_ssize_t by_time, by_row, n       # strides in bytes, the last axis is contiguous; its length


cdef Steps steps_of(const floating[:, :, ::contiguous] array) noexcept nogil:
    cdef Steps view
    view.start = NULL
    view.by_time, view.by_row, view.n = 0, 0, 0
    if array is not None:
        view.by_time, view.by_row, view.n = array.strides[0], array.strides[1], array.shape[2]
        if array.shape[0] > 0 and array.shape[1] > 0:
            view.start = <char *> &array[0, 0, 0]
    return view


cdef inline char *at(const Steps *view, Py_ssize_t t, Py_ssize_t b) noexcept nogil:
    return view.start + t * view.by_time + b * view.by_row


@cython.boundscheck(True)
cdef void *rows_of(const floating[:, ::1] array, Py_ssize_t B) except? NULL:
    """Return where an array (B, n) begins, or NULL if it has no rows."""
    return <void *> &array[0, 0] if B > 0 else NULL


# -------------------------------------------------------------------------------------- order of rows, chunks

cdef struct Extent:         # of the caller's sequences
    Py_ssize_t T, B
    const Py_ssize_t *lengths       # (B,); NULL: one step of each row
    bint reverse
    const unsigned char *resets     # (T, B) where an episode begins; NULL for nowhere


cdef Py_ssize_t total_steps(const Extent *extent) noexcept nogil:
    """Return the steps of all rows."""
    cdef Py_ssize_t total = 0, b
    if extent.lengths == NULL:
        return extent.B
    for b in range(extent.B):
        total += extent.lengths[b]
    return total


cdef struct Schedule:
    Py_ssize_t B, steps     # number of rows; of steps of the longest
    Py_ssize_t total        # steps of all rows
    Py_ssize_t *length      # (B,) of each workspace row
    Py_ssize_t *order       # (B,) its b: longest first, equal lengths in batch order
    Py_ssize_t *active      # (steps + 1,) rows that take part in step s: the first active[s]
    Py_ssize_t chunk_rows
    bint reverse
    const unsigned char *resets     # (T, B) where an episode begins; NULL for nowhere


cdef Schedule sizes_of(const Extent *extent) noexcept nogil:
    """Return a schedule that has its sizes alone."""
    cdef Schedule schedule
    cdef Py_ssize_t b
    memset(&schedule, 0, sizeof(Schedule))
    schedule.B, schedule.total, schedule.steps = extent.B, total_steps(extent), 1
    if extent.lengths != NULL:
        schedule.steps = 0
        for b in range(extent.B):
            schedule.steps = max(schedule.steps, extent.lengths[b])
    return schedule


cdef Schedule plan(const Py_ssize_t *lengths, Py_ssize_t B, bint reverse, const unsigned char *resets,
                   const Cell *cell, Workspace *workspace) noexcept nogil:
    """Order the rows by a counting sort; without lengths each has one step.

    If memory runs out, only the sizes are there.
    """
    cdef Schedule schedule
    cdef double work = <double> cell.H * (cell.I + cell.H)
    cdef Py_ssize_t b, s, r, length
    cdef Py_ssize_t *starts
    schedule.B = B
    schedule.reverse = reverse
    schedule.resets = resets
    schedule.steps = 0
    schedule.total = 0
    schedule.chunk_rows = LARGE_CHUNK_ROWS if work >= LARGE_WEIGHTS else CHUNK_ROWS
    schedule.chunk_rows = max(CHUNK_ROWS // 8, min(schedule.chunk_rows, <Py_ssize_t> (CHUNK_WORK / work)))
    for b in range(schedule.B):
        length = lengths[b] if lengths != NULL else 1
        schedule.steps = max(schedule.steps, length)
        schedule.total += length
    schedule.length = <Py_ssize_t *> take(workspace, schedule.B * sizeof(Py_ssize_t))
    schedule.order = <Py_ssize_t *> take(workspace, schedule.B * sizeof(Py_ssize_t))
    schedule.active = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    starts = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    if workspace.failed:
        return schedule
    memset(schedule.active, 0, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(schedule.B):
        length = lengths[b] if lengths != NULL else 1
        if length > 0:
            schedule.active[length - 1] += 1
    for s in range(schedule.steps - 1, -1, -1):     # rows longer than s: those that end with step s or later
        schedule.active[s] += schedule.active[s + 1]
    memcpy(starts, schedule.active, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(schedule.B):                     # all longer rows come before b
        length = lengths[b] if lengths != NULL else 1
        r = starts[length]
        starts[length] += 1
        schedule.order[r] = b
        schedule.length[r] = length
    return schedule


cdef Py_ssize_t chunk_end(const Schedule *schedule, Py_ssize_t start, Py_ssize_t *rows) noexcept nogil:
    """Return the step after the chunk that begins with step `start`; rows (OUT) is how many rows it has."""
    cdef Py_ssize_t s = start
    rows[0] = 0
    while s < schedule.steps and (s == start or rows[0] + schedule.active[s] <= schedule.chunk_rows):
        rows[0] += schedule.active[s]
        s += 1
    return s


cdef inline Py_ssize_t time_of(const Schedule *schedule, Py_ssize_t r, Py_ssize_t s) noexcept nogil:
    """Time index of step s of workspace row r; s = -1 is not one."""
    return schedule.length[r] - 1 - s if schedule.reverse else s


cdef inline bint begins(const Schedule *schedule, Py_ssize_t r, Py_ssize_t s) noexcept nogil:
    """Whether an episode of workspace row r begins with step s, in the order of computation.

    The reverse direction begins one where it leaves the first time step of another.
    """
    cdef Py_ssize_t t
    if schedule.resets == NULL or (schedule.reverse and s == 0):
        return False
    t = schedule.length[r] - s if schedule.reverse else s
    return schedule.resets[t * schedule.B + schedule.order[r]]


cdef void zero_padding(const Steps *result, const Schedule *schedule, Py_ssize_t T,
                       Py_ssize_t itemsize) noexcept nogil:
    """Set a result to 0 beyond each row's length."""
    cdef Py_ssize_t t, r
    for r in range(schedule.B):
        for t in range(schedule.length[r], T):
            memset(at(result, t, schedule.order[r]), 0, result.n * itemsize)


# --------------------------------------------------------------------------------- shares of threads, signals

# Either each thread owns some rows and all units, and steps need no barrier, or all rows and some units, and
# its part of the weights stays in its own cache.  Sums are never split, so results have the same bits for any
# number of threads.
cdef struct Share:
    Py_ssize_t row, row_stride          # rows row .. row + R of every row_stride
    Py_ssize_t u, u_end                 # of the U vectors of units, in multiples of four
    Py_ssize_t panel, panel_end         # the same in panels of z
    Py_ssize_t unit, unit_end           # the same in units, without padding
    Py_ssize_t h, h_end                 # its numbers of h: those of the units, or all with a projection
    int thread


cdef Share share_of(bint by_units, int thread, int size, const Cell *cell) noexcept nogil:
    cdef Share share
    cdef Py_ssize_t U = cell.U, fours
    share.thread = thread
    if by_units:
        fours = (U + 3) // 4
        share.row, share.row_stride = 0, tile_rows(4)
        share.u = min(U, 4 * (fours * thread // size))
        share.u_end = min(U, 4 * (fours * (thread + 1) // size))
    else:
        share.row, share.row_stride = thread * tile_rows(4), size * tile_rows(4)
        share.u, share.u_end = 0, U
    share.panel, share.panel_end = share.u * cell.G // 4, (share.u_end * cell.G + 3) // 4
    share.unit, share.unit_end = share.u * cell.V, min(share.u_end * cell.V, cell.H)
    share.h, share.h_end = share.unit, share.unit_end
    if cell.W_r != NULL:
        share.h, share.h_end = 0, cell.R
    return share


cdef inline double work_of(const Cell *cell, double rows) noexcept nogil:
    """Multiplications of one step of so many rows."""
    return rows * cell.G * cell.H * (cell.I + cell.H)


cdef int threads_for(const Schedule *schedule, const Cell *cell, int threads, bint *by_units) noexcept nogil:
    """Return how many of `threads` pay for a pass over all rows, and (OUT) what they share."""
    cdef double each = schedule.total / max(1.0, <double> schedule.steps) * cell.G * cell.H * cell.H
    cdef double faster = 1              # than a multiplication of floats
    cdef Py_ssize_t tiles = (schedule.B + tile_rows(4) - 1) // tile_rows(4)
    if cell.narrow.precision:
        faster = 3 if cell.narrow.precision == BYTES else 1.5
        threads = min(threads, cell.narrow.threads)
        each /= faster
    by_units[0] = not needs_rows(cell) and (
        each >= UNITS_WORK or (each >= FEW_ROWS_WORK and tiles < 4 * threads)
    )
    if schedule.total < PACK_ROWS or work_of(cell, schedule.total) < faster * TEAM_WORK:
        return 1
    return <int> max(1, min(threads, (cell.U + 3) // 4 if by_units[0] else tiles))


cdef bint polls(double work) except -1:
    """Whether a call of so much work looks for signals: if it is long, in the thread that runs the handlers.

    That is Python's main thread; after a fork, the one that forked.  No other may take the GIL in the middle
    of a call: a daemon thread may be in one when the interpreter ends, and then has no thread state to take
    it with.  Only the end of `with nogil` is prepared for that.
    """
    return work >= POLL_WORK and get_ident() == main_thread().ident


cdef inline void poll(Team *team, int thread, double work, fp_state caller) noexcept nogil:
    """Look for signals now and then, in the thread that runs handlers; an exception cancels the call.

    A look at the clock costs as much as a small step, so it waits for enough `work`, in multiplications.
    Handlers are Python code and run in the caller's floating-point environment.  None runs while an exception
    is on its way.
    """
    if thread != 0 or not team.signals or team.cancelled:
        return
    team.unpolled += work
    if team.unpolled < POLL_WORK:
        return
    team.unpolled = 0
    if now() - team.polled > POLL_SECONDS:
        restore_denormals(caller)
        with gil:
            if PyErr_CheckSignals() < 0:
                team.cancelled = True
        flush_denormals()
        team.polled = now()
