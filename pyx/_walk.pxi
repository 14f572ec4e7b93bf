# The walk over time, forward and back: one body for whole sequences, chunks, steps and streams, and for every
# kind of cell.  Included by _kernels.pyx.  A step goes through named stages: product (1 or 5), gates (2 to 4,
# or 6), handing out; what cells with options have beside them (normalise, project, zone out) is in
# _options.pxi.  Each is skipped or chosen by what the cell and the job have.

cdef enum:
    # Vectors of units whose gates are computed together, at most, but one panel of all rows at least.
    GATE_VECTORS = 32


# What only a cell with options has; see _options.pxi.
cdef struct Padded:
    void *peepholes         # (3, U V)
    void *gain_x            # (1, N V)
    void *gain_h            # (1, N V)
    void *norm_c            # (2, U V): gain, shift


cdef struct ForwardOptions:
    Padded padded           # the arrays of the cell
    void *zeros             # (4 V)
    void *panels_r          # (H, U_h V) in panels
    void *keep_c            # (B, U V) what zoneout keeps at a step
    void *keep_h            # (B, U_h V)
    void *sums_h            # (Q, B, 4 V): h W_h, apart from the rest of z
    void *fresh             # (B, U V): c_t before zoneout; then what the outer activation sees
    void *lifted            # (B, U V): h before its projection
    void *h_prev            # (B, U_h V): h_prev as it was before its mask; NULL if nobody asks


cdef struct BackwardOptions:
    Padded padded           # the arrays of the cell
    void *panels_r          # W_r transposed, (U_h V, H) in panels
    void *kept              # (B, U_h V): what zoneout hands from dh to the step before; NULL if nothing
    void *dlifted           # (B, U V): derivative by h before its projection
    # One row for each thread.
    void *keep              # (U V)
    void *z                 # (N V)
    void *dfresh            # (U V)
    void *lifted            # (U V)
    # Rows of a chunk.
    void *c_prev            # (rows, U V)
    void *fresh             # (rows, U V), c_t before zoneout
    void *n_c               # (rows, U V): N(c_t)
    void *dm                # (rows, U V): derivative by what the outer activation sees
    void *n_x               # (rows, N V)
    void *n_h               # (rows, N V)
    void *chunk_dx          # (rows, N V): derivative by x W_x
    void *chunk_dh          # (rows, N V): derivative by h W_h
    void *panels_dx         # the same in panels
    void *panels_dh
    void *tiles_lifted      # (H, rows) in tiles: h before its projection
    void *panels_dr         # (rows, U_h V) in panels: derivative by h
    # Sums over all steps.
    void *dpeepholes        # (3, U V)
    void *dnorm_x           # (N V)
    void *dnorm_h           # (N V)
    void *dnorm_c           # (2, U V)
    void *dW_r              # (ceil(U_h / 4), H, 4 V)


# What only a cell with weights of bytes has; see _narrow_products.pxi.
cdef struct NarrowForward:
    void *scale_x           # (1, N V): what 1 in a sum is worth
    void *scale_h
    void *x                 # (rows, I) as integers
    void *h                 # (threads, B, R): each thread its own


# ---------------------------------------------------------------------------------------------------- forward

# Where a thread is in its walk: between two steps of a chunk, before the first of which it is prepared, or
# between two chunks.  All 0 is the beginning.
cdef struct Place:
    Py_ssize_t chunk        # backward: how many chunks of the forward pass come before this one
    Py_ssize_t start, end   # the steps of the chunk
    Py_ssize_t rows         # its rows, those of all its steps
    Py_ssize_t s            # forward: the next step; backward: the last one that was done
    Py_ssize_t n            # rows of the chunk's steps before s


cdef struct Forward:
    Team team
    Place place             # where thread 0 is when it lets others in; of a strip, how far it is
    Extent extent
    Schedule schedule
    Cell cell
    bint by_units
    bint packing            # whether the walk begins with packing the weights
    bint between            # whether anything happens to the state between two steps
    int turn                # which of `hidden` holds h before step 0
    Py_ssize_t slice        # rows of a chunk of a strip; 0 for what `plan` says
    Py_ssize_t joined       # inputs in front of h in the rows of `hidden`: I, or 0 if chunks are projected
    Steps x                 # IN
    Steps recurrent         # IN, what h_prev is multiplied by before the product; may be none
    Steps keep_h, keep_c    # IN, what zoneout keeps; may be none
    Steps y, gates, c       # OUT; may be none
    Steps norms             # OUT; may be none
    bint outputs            # whether a cell with options leaves its gates in `gates`, not its z
    const void *h_0         # IN (B, R)
    const void *c_0         # IN (B, H)
    void *h_n               # OUT (B, R); NULL if nobody asks
    void *c_n               # OUT (B, H)
    void *panels_x          # (I, N V) in panels; NULL if inputs are joined
    void *panels_h          # (joined + R, N V); NULL if the weights are read as they lie, for few rows
    void *bias_z            # (1, N V)
    void *chunk_x           # (rows, I)
    void *chunk_z           # (Q, rows, 4 V): panel after panel, in each the z of all rows; later gates
    void *flat              # (GH,), for sums with the weights as they lie
    void *c_t               # (B, U V), if the kind has it
    void *hidden[2]         # (B, pitch) h before and after a step, in turn; each points to h of the first row
    Py_ssize_t pitch        # U_h V, and room for what is joined
    ForwardOptions options  # of a cell with options
    NarrowForward narrow    # of narrow weights


cdef void prepare_forward(Forward *job, const Py_ssize_t *lengths, Py_ssize_t B, bint reverse,
                          const unsigned char *resets, bint packed, bint joined, Workspace *workspace,
                          const floating *like) noexcept nogil:
    """Plan the order of the rows and take memory for a job that has its cell.

    Without lengths each row has one step; packed: the weights go into panels; joined: inputs and h are
    multiplied at once.
    """
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like)
    cdef Py_ssize_t most, front
    cdef int n
    job.schedule = plan(lengths, B, reverse, resets, cell, workspace)
    if job.slice:
        job.schedule.chunk_rows = min(job.schedule.chunk_rows, job.slice)
    job.between = resets != NULL or job.recurrent.start != NULL
    most = max(B, min(job.schedule.total, job.schedule.chunk_rows))
    job.panels_x, job.panels_h, job.bias_z = NULL, NULL, NULL
    job.flat, job.chunk_x, job.c_t = NULL, NULL, NULL
    job.joined = cell.I if joined else 0
    front = (job.joined + V - 1) // V * V
    job.pitch = front + cell.U_h * V
    if cell.narrow.precision:
        prepare_narrow(job, most, B, workspace, like)
    elif packed:
        job.panels_h = take(workspace, (job.joined + cell.R) * cell.N * V * sizeof(floating))
        job.bias_z = take(workspace, cell.Q * 4 * V * sizeof(floating))
        if not joined:
            job.panels_x = take(workspace, cell.I * cell.N * V * sizeof(floating))
            job.chunk_x = take(workspace, most * cell.I * sizeof(floating))
    else:
        job.flat = take(workspace, cell.G * cell.H * sizeof(floating))
    job.chunk_z = take(workspace, most * cell.Q * 4 * V * sizeof(floating))
    if cell.kind != RNN:
        job.c_t = take_zeros(workspace, B * cell.U * V * sizeof(floating))
    for n in range(2):
        job.hidden[n] = take_zeros(workspace, B * job.pitch * sizeof(floating))
        if job.hidden[n] != NULL:
            job.hidden[n] = <floating *> job.hidden[n] + front
    if cell.kind == OPTIONS:
        prepare_options(job, B, workspace, like)


cdef void load_state(Forward *job, const floating *like) noexcept nogil:
    """Copy the initial state in, and out again for the rows that have no steps."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t V = lanes(like), H = job.cell.H, R = job.cell.R
    cdef Py_ssize_t size = H * sizeof(floating), size_h = R * sizeof(floating), r, b
    for r in range(schedule.B):
        b = schedule.order[r]
        memcpy(<floating *> job.hidden[0] + r * job.pitch, <const floating *> job.h_0 + b * R, size_h)
        if job.c_t != NULL:
            memcpy(<floating *> job.c_t + r * job.cell.U * V, <const floating *> job.c_0 + b * H, size)
        if schedule.length[r] == 0:
            memcpy(<floating *> job.h_n + b * R, <const floating *> job.h_0 + b * R, size_h)
            if job.c_t != NULL:
                memcpy(<floating *> job.c_n + b * H, <const floating *> job.c_0 + b * H, size)


cdef void ready_forward(Forward *job, Workspace *workspace, const floating *like) noexcept nogil:
    """Make a job ready that has its cell, extent, arrays and states; `slice` has been set."""
    cdef const Extent *extent = &job.extent
    cdef Py_ssize_t total = total_steps(extent)
    job.turn = 0
    job.packing = total >= PACK_ROWS or job.cell.norm_x != NULL or job.cell.narrow.precision != 0
    prepare_forward(job, extent.lengths, extent.B, extent.reverse, extent.resets, job.packing, False,
                    workspace, like)
    if not workspace.failed:
        load_state(job, like)
        if job.cell.kind == OPTIONS and not job.packing:
            pack_options(job, like)
        zero_padding(&job.y, &job.schedule, extent.T, sizeof(floating))


cdef int run_forward(Forward *job, const floating *like) except -1:
    """Run a job that has its cell, extent, arrays and states."""
    cdef int threads = max_threads          # read with the GIL
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(work_of(&job.cell, <double> job.extent.T * job.extent.B)))
    with nogil:
        ready_forward(job, &workspace, like)
        if not workspace.failed:
            threads = threads_for(&job.schedule, &job.cell, threads, &job.by_units)
            if floating is float:
                run_team(threads, forward_f32, job, sizeof(Forward), &job.team)
            else:
                run_team(threads, forward_f64, job, sizeof(Forward), &job.team)
    return release(&workspace, job.team.cancelled)


cdef void forward_f32(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_forward(<Forward *> job, thread, caller, <float *> NULL)
    restore_denormals(caller)


cdef void forward_f64(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_forward(<Forward *> job, thread, caller, <double *> NULL)
    restore_denormals(caller)


cdef void walk_forward(Forward *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread of a team does of a forward pass, from where it was let in."""
    cdef Place place = job.place
    while place.s < job.schedule.steps:
        if not chunk_forward(job, thread, &place, caller, like):
            return


cdef bint chunk_forward(Forward *job, int thread, Place *place, fp_state caller,
                        const floating *like) noexcept nogil:
    """Go on from a place to the end of its chunk; returns whether this thread is to go on after it."""
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef double row_work = work_of(&job.cell, 1)
    cdef int size = team.size
    cdef Share share = share_of(job.by_units, thread, size, &job.cell)
    cdef bint meet          # whether the threads meet after the step

    if place.end == 0:
        if job.between:
            between_steps(job, &share, 0, <floating *> job.hidden[0])
        if job.packing:
            pack_weights(job, thread, size, like)
            if not barrier(team, thread):
                return False
    if place.s == place.end:
        place.start, place.n = place.s, 0
        place.end = chunk_end(schedule, place.start, &place.rows)
        if job.chunk_x != NULL:
            project_chunk(job, place.start, place.end, place.rows, place.rows * thread // team.size,
                          place.rows * (thread + 1) // team.size, like)
            if not barrier(team, thread):
                return False
    while place.s < place.end:
        if team.size != size:               # others have come, or the barrier has left this thread alone
            size = team.size
            share = share_of(job.by_units, thread, size, &job.cell)
        step_forward(job, &share, place.s, place.rows,
                     <floating *> job.chunk_z + place.n * 4 * lanes(like))
        poll(team, thread, row_work * schedule.active[place.s], caller)
        place.n += schedule.active[place.s]
        place.s += 1
        meet = job.by_units or place.s == place.end
        if meet and size > 1 and place.s < schedule.steps:
            admit(team, thread, place, &job.place)
        if stopped(team) or (meet and not barrier(team, thread)):
            return False
        if size == 1 and place.s < schedule.steps:
            admit(team, thread, place, &job.place)
    return True


cdef inline void admit(Team *team, int thread, const Place *place, Place *shared) noexcept nogil:
    """Let in who waits, now or with the next barrier: all before the place will have been done then."""
    if thread == 0 and waiting(team):
        shared[0] = place[0]
        let_in(team)


cdef void pack_weights(Forward *job, int thread, int size, const floating *like) noexcept nogil:
    """One thread's part of the weights into panels."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, R = cell.R
    cdef bint joined = job.joined > 0
    if not cell.narrow.precision:
        pack(cell, <const floating *> cell.W_x, cell.W_x_by_column, I, I * thread // size,
             I * (thread + 1) // size, 0, I + R if joined else I,
             <floating *> (job.panels_h if joined else job.panels_x))
        pack(cell, <const floating *> cell.W_h, cell.W_h_by_column, R, R * thread // size,
             R * (thread + 1) // size, job.joined, job.joined + R, <floating *> job.panels_h)
    elif thread == 0:
        pack_narrow(job, like)
    if thread == 0:
        pack_row(cell, <const floating *> cell.bias, 0, 1, <floating *> job.bias_z)
        if cell.kind == OPTIONS:
            pack_options(job, like)


cdef void project_chunk(Forward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t rows, Py_ssize_t row,
                        Py_ssize_t row_end, const floating *like) noexcept nogil:
    """Product, the part of x, for all steps of a chunk at once: rows row .. row_end of its `rows`."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.cell.I, V = lanes(like), n = 0, r, s
    cdef floating *chunk_x = <floating *> job.chunk_x
    cdef bint normed = job.cell.norm_x != NULL
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            memcpy(chunk_x + (n + r) * I, at(&job.x, time_of(schedule, r, s), schedule.order[r]),
                   I * sizeof(floating))
        n += schedule.active[s]
    if job.cell.narrow.precision:
        project_narrow(job, rows, row, row_end,
                       <const floating *> (job.options.zeros if normed else job.bias_z),
                       0 if normed else 4 * V)
    else:
        multiply(<const floating *> chunk_x + row * I, row_end - row, I,
                 <const floating *> job.panels_x, job.cell.N, I,
                 <const floating *> (job.options.zeros if normed else job.bias_z), 0, 0 if normed else 4 * V,
                 <floating *> job.chunk_z + row * 4 * V, 4 * V, rows * 4 * V)
    if normed:
        normalise_inputs(job, start, end, rows, row, row_end, like)


cdef inline void step_forward(Forward *job, const Share *share, Py_ssize_t s, Py_ssize_t rows,
                              floating *z) noexcept nogil:
    """One step of the running rows: the stages of one group of panels after the other, while z is cached.

    z points at the step's first row in a chunk of `rows`.  Taking the panels up and down on alternate steps
    re-uses what the last step left in the cache.
    """
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(z), running = job.schedule.active[s], z_panel = rows * 4 * V
    cdef bint descending = (s + job.turn) % 2
    cdef const floating *h_prev = <const floating *> job.hidden[descending]
    cdef floating *h = <floating *> job.hidden[not descending]
    cdef Py_ssize_t depth = job.joined + cell.R
    cdef const floating *panels = <const floating *> job.panels_h
    # What there is of z: the bias, or its sum with the part of x.
    cdef const floating *start = <const floating *> job.bias_z if job.joined else <const floating *> z
    cdef Py_ssize_t start_row = 0 if job.joined else 4 * V, start_panel = 4 * V if job.joined else z_panel
    cdef floating *sums = z
    cdef Py_ssize_t sums_panel = z_panel
    # Panels from product to gates at once: their z stays in the L1 cache, and units are enough to overlap.
    cdef Py_ssize_t count = share.panel_end - share.panel, group = count, groups = 1
    cdef Py_ssize_t n, r, first, last
    cdef char *x

    if cell.norm_h != NULL:             # the part of h is a sum of its own, and whole before it is normalised
        start, start_row, start_panel = <const floating *> job.options.zeros, 0, 0
        sums, sums_panel = <floating *> job.options.sums_h, job.schedule.B * 4 * V
    elif running * cell.W * count > GATE_VECTORS:
        group = max(1, GATE_VECTORS // (running * cell.W))
        if cell.narrow.precision:          # whole panels of theirs
            group = (group * V + PANEL_UNITS - 1) // PANEL_UNITS * PANEL_UNITS // V
        groups = (count + group - 1) // group
    if cell.narrow.precision:
        quantise_h(job, share, running, h_prev)
    elif panels == NULL:
        for r in range(running):
            x = at(&job.x, time_of(&job.schedule, r, s), job.schedule.order[r])
            multiply_in_place(cell, <const floating *> x, h_prev + r * job.pitch, <floating *> job.flat, rows,
                              z + r * 4 * V)
    for n in range(groups):
        first = share.panel + group * (groups - 1 - n if descending else n)
        last = min(first + group, share.panel_end)
        if cell.narrow.precision:
            multiply_narrow(job, share, running, h_prev, first, last, start, start_row, start_panel, sums,
                            sums_panel, descending)
        elif panels != NULL:
            multiply(h_prev - job.joined, running, job.pitch, panels + first * 4 * V * depth,
                     min(4 * last, cell.N) - 4 * first, depth, start + first * start_panel, start_row,
                     start_panel, sums + first * sums_panel, 4 * V, sums_panel, share.row,
                     share.row_stride, descending)
        # Constants, so that the compiler makes a loop of its own for each part of each kind.
        if cell.kind == LSTM:
            gates_forward(LSTM, 0, 4, job, share, running, first, last, z, z_panel, h)
            gates_forward(LSTM, 1, 4, job, share, running, first, last, z, z_panel, h)
        elif cell.kind == OPTIONS:
            gates_forward_options(job, share, s, first, last, z, z_panel, h)
        else:
            gates_forward(RNN, 0, 1, job, share, running, first, last, z, z_panel, h)
    if cell.kind == OPTIONS:
        finish_h(job, share, s, h_prev, h)
    hand_out(job, share, s, <const floating *> z, z_panel, <const floating *> h)
    if job.between and s + 1 < job.schedule.steps:
        between_steps(job, share, s + 1, h)


cdef inline void gates_forward(int kind, int part, Py_ssize_t G, Forward *job, const Share *share,
                               Py_ssize_t running, Py_ssize_t first, Py_ssize_t last, floating *z,
                               Py_ssize_t z_panel, floating *h) noexcept nogil:
    """Gates, panels first .. last of a thread's rows: z IN/OUT, h OUT, and the rest of the state."""
    cdef Py_ssize_t V = lanes(z), U = job.cell.U, W = 4 // G, pitch = job.pitch, stride = share.row_stride
    cdef Py_ssize_t tile = tile_rows(4), r = share.row, q, p, u, u_end
    cdef floating *c_t = <floating *> job.c_t
    cdef floating *z_units
    while r < running:
        for q in range(r, min(r + tile, running)):
            for p in range(first, last):
                z_units = z + p * z_panel + q * 4 * V
                if kind == LSTM and part == 0 and job.cell.tail and p == job.cell.Q - 1:
                    spread(z_units, job.cell.tail)
                u = p * W
                u_end = u + 1 if W == 1 else min(u + W, U)
                while u < u_end:
                    forward_units(kind, part, z_units, c_t + (q * U + u) * V, h + q * pitch + u * V)
                    z_units += G * V
                    u += 1
        r += stride


cdef inline void hand_out(Forward *job, const Share *share, Py_ssize_t s, const floating *z,
                          Py_ssize_t z_panel, const floating *h) noexcept nogil:
    """Copy what a step has computed to the caller's arrays: the rows and units of one thread."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t V = lanes(z), H = job.cell.H, R = job.cell.R, U = job.cell.U, unit = share.unit
    cdef Py_ssize_t size = (share.unit_end - unit) * sizeof(floating)
    cdef Py_ssize_t size_h = (share.h_end - share.h) * sizeof(floating)
    cdef Py_ssize_t r = share.row, q, t, b
    cdef const floating *c = <const floating *> job.c_t
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            if job.y.start != NULL:
                memcpy(<floating *> at(&job.y, t, b) + share.h, h + q * job.pitch + share.h, size_h)
            if job.gates.start != NULL:
                unpack_row(&job.cell, z + q * 4 * V, z_panel, V, share.u, share.u_end,
                           <floating *> at(&job.gates, t, b))
            if job.c.start != NULL:
                memcpy(<floating *> at(&job.c, t, b) + unit, c + q * U * V + unit, size)
            if q >= schedule.active[s + 1] and job.h_n != NULL:     # the row's last step
                memcpy(<floating *> job.h_n + b * R + share.h, h + q * job.pitch + share.h, size_h)
                if c != NULL:
                    memcpy(<floating *> job.c_n + b * H + unit, c + q * U * V + unit, size)
        r += share.row_stride


cdef void between_steps(Forward *job, const Share *share, Py_ssize_t s, floating *h) noexcept nogil:
    """What step s is to find in h and c (IN/OUT): 0 where an episode begins, then what dropout leaves of h.

    Of the rows and units of one thread.
    """
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t r = share.row, q, k
    cdef floating *h_prev
    cdef floating *c_prev
    cdef const floating *mask
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            h_prev = h + q * job.pitch
            if begins(schedule, q, s):
                memset(h_prev + share.h, 0, (share.h_end - share.h) * sizeof(floating))
                if job.c_t != NULL:
                    c_prev = <floating *> job.c_t + q * job.cell.U * job.cell.V
                    memset(c_prev + share.unit, 0, (share.unit_end - share.unit) * sizeof(floating))
            if job.recurrent.start != NULL:
                if job.options.h_prev != NULL:
                    memcpy(<floating *> job.options.h_prev + q * job.cell.U_h * job.cell.V + share.h,
                           h_prev + share.h, (share.h_end - share.h) * sizeof(floating))
                mask = <const floating *> at(&job.recurrent, time_of(schedule, q, s), schedule.order[q])
                for k in range(share.h, share.h_end):
                    h_prev[k] *= mask[k]
        r += share.row_stride


# --------------------------------------------------------------------------------------------------- backward

cdef struct Backward:
    Team team
    Place place                     # as in Forward
    Extent extent
    Schedule schedule
    Cell cell
    bint by_units
    bint between                    # whether anything happens to the state between two steps
    Steps dy, x, y, gates, c        # IN
    Steps recurrent, keep_h, keep_c  # IN; may be none
    Steps norms                     # IN; may be none
    Steps dx                        # OUT; may be none
    const void *h_0                 # IN (B, R)
    const void *c_0                 # IN (B, H)
    const void *dh_n
    const void *dc_n
    bint dW_x_by_column             # as in Cell
    bint dW_h_by_column
    void *dW_x                      # OUT; NULL, as the others, if nobody asks for gradients by the weights
    void *dW_h
    void *dbias
    void *dh_0
    void *dc_0
    void *panels_x                  # W_x transposed, (D, I) in panels
    void *panels_h                  # W_h transposed, (D, R)
    void *chunk_a                   # (K, rows) in tiles: [x; h_prev; 1], the bias is one more weight
    Py_ssize_t K, row_h, row_one    # the number of its rows, and where h_prev and 1 begin
    void *chunk_dz                  # (rows, N V)
    void *panels_dz                 # the same in panels
    void *chunk_dx                  # (rows, I in whole vectors)
    void *dW                        # (Q, K, 4 V)
    void *dh                        # (B, U_h V) from later steps
    void *dc                        # (B, U V) from later steps, times f
    void *padded                    # gates, c, c_prev, dy, dz of the last units, V of them, for each thread
    void *zeros                     # a row of 0, as wide as H, R and I
    void *masked                    # (R,) h_prev after its mask, for each thread
    Py_ssize_t *ends                # of the chunks of the forward pass
    Py_ssize_t slice                # rows after which dx is there, of a strip; 0 for those of a chunk
    void *dpeepholes                # OUT, of a cell with options
    void *dW_r
    void *dnorm_x
    void *dnorm_h
    void *dnorm_c
    BackwardOptions options


cdef int threads_back(Backward *job, int threads, Workspace *workspace, const floating *like) noexcept nogil:
    """Plan the order of the rows; returns how many of `threads` pay."""
    cdef const Extent *extent = &job.extent
    job.schedule = plan(extent.lengths, extent.B, extent.reverse, extent.resets, &job.cell, workspace)
    return threads_for(&job.schedule, &job.cell, threads, &job.by_units)


cdef void ready_back(Backward *job, int threads, Workspace *workspace, const floating *like) noexcept nogil:
    """Make a job ready that has its cell, extent, arrays and states, and has been planned."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like), I = cell.I, H = cell.H, R = cell.R, B = job.extent.B, tile = tile_rows(4)
    cdef Py_ssize_t I_whole = (I + V - 1) // V * V, H_whole = cell.U * V, R_whole = cell.U_h * V
    cdef Py_ssize_t N_whole = cell.N * V
    cdef Py_ssize_t size = H * sizeof(floating), size_h = R * sizeof(floating), most, n, r, b
    job.between = job.schedule.resets != NULL or job.recurrent.start != NULL or cell.zoneout_h > 0
    most = max(B, job.schedule.chunk_rows)
    job.row_h, job.row_one = I, I + R
    if cell.norm_x != NULL:         # products of their own, which begin with a tile
        job.row_h = (I + tile - 1) // tile * tile
        job.row_one = job.row_h + (R + tile - 1) // tile * tile
    job.K = job.row_one + 1
    if job.dx.start != NULL:
        job.panels_x = take(workspace, I_whole * cell.D * sizeof(floating))
        job.chunk_dx = take(workspace, most * I_whole * sizeof(floating))
    job.panels_h = take(workspace, R_whole * cell.D * sizeof(floating))
    job.chunk_a = take(workspace, most * (job.K + tile) * sizeof(floating))
    job.chunk_dz = take(workspace, most * N_whole * sizeof(floating))
    job.panels_dz = take(workspace, most * N_whole * sizeof(floating))
    job.dW = take_zeros(workspace, job.K * cell.Q * 4 * V * sizeof(floating))
    job.dh = take_zeros(workspace, B * R_whole * sizeof(floating))
    job.dc = take_zeros(workspace, B * H_whole * sizeof(floating))
    job.padded = take_zeros(workspace, threads * 11 * V * sizeof(floating))
    job.zeros = take_zeros(workspace, max(H_whole, R_whole, I_whole) * sizeof(floating))
    if job.recurrent.start != NULL:
        job.masked = take(workspace, threads * R * sizeof(floating))
    if cell.kind == OPTIONS:
        prepare_options_back(job, most, threads, workspace, like)
    job.ends = <Py_ssize_t *> take(workspace, job.schedule.steps * sizeof(Py_ssize_t))
    if workspace.failed:
        return
    for r in range(B):
        b = job.schedule.order[r]
        memcpy(<floating *> job.dh + r * R_whole, <const floating *> job.dh_n + b * R, size_h)
        if cell.kind != RNN:
            memcpy(<floating *> job.dc + r * H_whole, <const floating *> job.dc_n + b * H, size)
    if job.dx.start != NULL:
        zero_padding(&job.dx, &job.schedule, job.extent.T, sizeof(floating))
    memset(&job.place, 0, sizeof(Place))
    n = 0
    while n < job.schedule.steps:
        n = chunk_end(&job.schedule, n, &r)
        job.ends[job.place.chunk] = n
        job.place.chunk += 1


cdef void hand_out_back(Backward *job, const floating *like) noexcept nogil:
    """Copy what is left at the first step, and the sums of an LSTM with options, to the caller's arrays."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like), H = cell.H, R = cell.R, r, b
    for r in range(job.extent.B):
        b = job.schedule.order[r]
        memcpy(<floating *> job.dh_0 + b * R, <const floating *> job.dh + r * cell.U_h * V,
               R * sizeof(floating))
        if cell.kind != RNN:
            memcpy(<floating *> job.dc_0 + b * H, <const floating *> job.dc + r * cell.U * V,
                   H * sizeof(floating))
    if cell.kind == OPTIONS and job.dW_x != NULL:
        hand_out_gradients(job, like)


cdef int run_backward(Backward *job, const floating *like) except -1:
    """Run a job that has its cell, extent, arrays and states."""
    cdef int threads = max_threads          # read with the GIL
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(work_of(&job.cell, <double> job.extent.T * job.extent.B)))
    with nogil:
        threads = threads_back(job, threads, &workspace, like)
        ready_back(job, threads, &workspace, like)
        if not workspace.failed:
            if floating is float:
                run_team(threads, backward_f32, job, sizeof(Backward), &job.team)
            else:
                run_team(threads, backward_f64, job, sizeof(Backward), &job.team)
            hand_out_back(job, like)
    return release(&workspace, job.team.cancelled)


cdef void backward_f32(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_backward(<Backward *> job, thread, caller, <float *> NULL)
    restore_denormals(caller)


cdef void backward_f64(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_backward(<Backward *> job, thread, caller, <double *> NULL)
    restore_denormals(caller)


cdef void walk_backward(Backward *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread of a team does of a backward pass, from where it was let in."""
    cdef Place place = job.place
    if place.end == 0 and not begin_back(job, thread, like):
        return
    while place.chunk > 0 or place.s > place.start:
        if not chunk_back(job, thread, &place, caller, like):
            return
    end_back(job, thread, like)


cdef bint begin_back(Backward *job, int thread, const floating *like) noexcept nogil:
    """Pack the weights; returns whether this thread is to go on."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t U = cell.U, size = job.team.size
    if job.dx.start != NULL:
        pack_transposed(cell, <const floating *> cell.W_x, cell.W_x_by_column, cell.I, U * thread // size,
                        U * (thread + 1) // size, <floating *> job.panels_x)
    pack_transposed(cell, <const floating *> cell.W_h, cell.W_h_by_column, cell.R, U * thread // size,
                    U * (thread + 1) // size, <floating *> job.panels_h)
    return barrier(&job.team, thread)


cdef Py_ssize_t slice_begin(const Schedule *schedule, Py_ssize_t slice, Py_ssize_t start,
                            Py_ssize_t s) noexcept nogil:
    """Return the first step of the slice of a chunk, begun with step `start`, that ends before step s."""
    cdef Py_ssize_t rows = 0
    while s > start and (rows == 0 or slice == 0 or rows + schedule.active[s - 1] <= slice):
        s -= 1
        rows += schedule.active[s]
    return s


cdef bint chunk_back(Backward *job, int thread, Place *place, fp_state caller,
                     const floating *like) noexcept nogil:
    """Go back from a place to the beginning of its chunk or slice; returns whether to go on after it.

    The chunks are those of the forward pass, the last one first.
    """
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef double row_work = work_of(cell, 1)
    cdef int size = team.size
    cdef Share share = share_of(job.by_units, thread, size, cell)
    cdef Py_ssize_t last, first, rows, s

    if place.s == place.start:
        place.chunk -= 1
        place.start, place.end = job.ends[place.chunk - 1] if place.chunk else 0, job.ends[place.chunk]
        chunk_end(schedule, place.start, &place.rows)
        place.s, place.n = place.end, place.rows
        if job.dW_x != NULL:
            gather_operands(job, thread, place.start, place.end, place.rows * thread // size,
                            place.rows * (thread + 1) // size, place.rows, like)
    last, rows = place.s, place.n
    first = slice_begin(schedule, job.slice, place.start, last)

    # 4' to 2', or 6', and the carry to the step before.
    while place.s > first:
        if team.size != size:               # others have come
            size = team.size
            share = share_of(job.by_units, thread, size, cell)
        s = place.s - 1
        place.n -= schedule.active[s]
        if cell.kind == LSTM:
            gates_backward(LSTM, 4, job, &share, thread, s, place.n, place.rows, like)
        elif cell.kind == OPTIONS:
            step_backward_options(job, &share, thread, s, place.n, place.rows, like)
        else:
            gates_backward(RNN, 1, job, &share, thread, s, place.n, place.rows, like)
        poll(team, thread, row_work * schedule.active[s], caller)
        if stopped(team) or (job.by_units and not barrier(team, thread)):
            return False
        if team.size != size:               # the barrier has left this thread alone
            size = team.size
            share = share_of(job.by_units, thread, size, cell)
        carry_back(job, &share, s, <const floating *> (
            job.chunk_dz if cell.norm_h == NULL else job.options.chunk_dh) + place.n * cell.N * lanes(like))
        if job.between:
            between_steps_back(job, &share, s, like)
        place.s = s
        if s > place.start and size == 1:
            admit(team, thread, place, &job.place)

    if job.slice:
        inputs_back(job, first, last, place.n, place.n, rows, like)
    if place.s == place.start:
        if not barrier(team, thread):
            return False
        size, rows = team.size, place.rows
        if not job.slice:
            inputs_back(job, place.start, place.end, 0, rows * thread // size, rows * (thread + 1) // size,
                        like)
        sum_chunk(job, rows, thread, size, like)
        if place.chunk and size > 1:
            admit(team, thread, place, &job.place)
        if not barrier(team, thread):
            return False
        if place.chunk and size == 1:
            admit(team, thread, place, &job.place)
    return True


cdef void end_back(Backward *job, int thread, const floating *like) noexcept nogil:
    """A thread's part of the gradients by the weights, out of panels."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, R = cell.R, K = job.K, size = job.team.size
    cdef const floating *dW = <const floating *> job.dW
    if job.dW_x == NULL:
        return
    unpack(cell, dW, I * thread // size, I * (thread + 1) // size, 0, K, <floating *> job.dW_x,
           job.dW_x_by_column, I)
    unpack(cell, dW, R * thread // size, R * (thread + 1) // size, job.row_h, K, <floating *> job.dW_h,
           job.dW_h_by_column, R)
    if thread == 0:
        unpack(cell, dW, 0, 1, job.row_one, K, <floating *> job.dbias, False, 1)


cdef inline const floating *state_before(const Schedule *schedule, const Steps *states, const floating *first,
                                         Py_ssize_t n, const floating *zeros, Py_ssize_t r,
                                         Py_ssize_t s) noexcept nogil:
    """Where h or c before step s of workspace row r lies: n numbers of the caller's, or zeros."""
    cdef Py_ssize_t b = schedule.order[r]
    if begins(schedule, r, s):
        return zeros
    return <const floating *> at(states, time_of(schedule, r, s - 1), b) if s else first + b * n


cdef void gather_operands(Backward *job, int thread, Py_ssize_t start, Py_ssize_t end, Py_ssize_t row,
                          Py_ssize_t row_end, Py_ssize_t rows, const floating *like) noexcept nogil:
    """Rows row .. row_end of [x; h_prev; 1], which the weights were multiplied by, in steps start .. end."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.cell.I, R = job.cell.R, n = 0, r, s, b, k
    cdef const floating *h_prev
    cdef const floating *mask
    cdef floating *masked = <floating *> job.masked + thread * R if job.masked != NULL else NULL
    cdef floating one = 1
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            b = schedule.order[r]
            h_prev = state_before(schedule, &job.y, <const floating *> job.h_0, R,
                                  <const floating *> job.zeros, r, s)
            if masked != NULL:
                mask = <const floating *> at(&job.recurrent, time_of(schedule, r, s), b)
                for k in range(R):
                    masked[k] = h_prev[k] * mask[k]
                h_prev = masked
            into_tiles(<const floating *> at(&job.x, time_of(schedule, r, s), b), I, 0, n + r, rows,
                       <floating *> job.chunk_a)
            into_tiles(h_prev, R, job.row_h, n + r, rows, <floating *> job.chunk_a)
            into_tiles(<const floating *> &one, 1, job.row_one, n + r, rows, <floating *> job.chunk_a)
        n += schedule.active[s]


cdef inline void gates_backward(int kind, Py_ssize_t G, Backward *job, const Share *share, int thread,
                                Py_ssize_t s, Py_ssize_t n, Py_ssize_t rows,
                                const floating *like) noexcept nogil:
    """4' to 2', or 6', for the rows and units of one thread; the step's rows begin at row n of the chunk."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t H = job.cell.H, U = job.cell.U, N = job.cell.N, V = lanes(like)
    cdef floating *padded = <floating *> job.padded + thread * 11 * V
    cdef floating *panels_dz = <floating *> job.panels_dz
    cdef const floating *gates
    cdef const floating *c = NULL
    cdef const floating *c_prev = NULL
    cdef const floating *dy
    cdef floating *dh
    cdef floating *dc
    cdef floating *dz
    cdef floating *dz_panel
    cdef Py_ssize_t r = share.row, q, t, b, u, g, count, panel, width
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            gates = <const floating *> at(&job.gates, t, b)
            dy = <const floating *> at(&job.dy, t, b)
            if kind == LSTM:
                c = <const floating *> at(&job.c, t, b)
                c_prev = state_before(schedule, &job.c, <const floating *> job.c_0, H,
                                      <const floating *> job.zeros, q, s)
            for u in range(share.u, share.u_end):
                dh = <floating *> job.dh + (q * U + u) * V
                dc = <floating *> job.dc + (q * U + u) * V
                dz = <floating *> job.chunk_dz + ((n + q) * N + u * G) * V
                count = H - u * V
                if count >= V:
                    backward_units(kind, gates + u * V, H, c + u * V, c_prev + u * V, dy + u * V,
                                   <const floating *> dh, dc, dz)
                else:                           # the last units: the rows of the caller have no padding
                    for g in range(G):
                        copy_lanes(padded + g * V, gates + g * H + u * V, count)
                    if kind == LSTM:
                        copy_lanes(padded + 4 * V, c + u * V, count)
                        copy_lanes(padded + 5 * V, c_prev + u * V, count)
                    copy_lanes(padded + 6 * V, dy + u * V, count)
                    backward_units(kind, <const floating *> padded, V, padded + 4 * V, padded + 5 * V,
                                   padded + 6 * V, <const floating *> dh, dc, padded + 7 * V)
                    if kind == LSTM and job.cell.tail:
                        join(padded + 7 * V, count)
                    memcpy(dz, padded + 7 * V, min(G, N - G * u) * V * sizeof(floating))
                panel = G * u // 4
                width = min(4, N - 4 * panel)
                dz_panel = panels_dz + (4 * panel * rows + (n + q) * width + G * u - 4 * panel) * V
                if G <= width:                  # of a constant size: no call
                    memcpy(dz_panel, dz, G * V * sizeof(floating))
                else:
                    memcpy(dz_panel, dz, width * V * sizeof(floating))
        r += share.row_stride


cdef void carry_back(Backward *job, const Share *share, Py_ssize_t s, const floating *dz) noexcept nogil:
    """dh of the step before, dz @ W_h.T, for the rows and units of one thread."""
    cdef Py_ssize_t V = lanes(dz), depth = job.cell.D, first = share.h // V
    multiply(dz, job.schedule.active[s], job.cell.N * V, <const floating *> job.panels_h + first * V * depth,
             (share.h_end + V - 1) // V - first, depth, <const floating *> job.zeros, 0, 4 * V,
             <floating *> job.dh + first * V, job.cell.U_h * V, 4 * V, share.row, share.row_stride)


cdef void between_steps_back(Backward *job, const Share *share, Py_ssize_t s,
                             const floating *like) noexcept nogil:
    """What `between_steps` has done to the state before step s, walked back: dh and dc (IN/OUT).

    With it what zoneout has handed from one h to the next, past the product.
    """
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t V = job.cell.V, H_whole = job.cell.U * V, R_whole = job.cell.U_h * V
    cdef Py_ssize_t padded_h = (share.h_end + V - 1) // V * V
    cdef Py_ssize_t padded_unit = (share.unit_end + V - 1) // V * V
    cdef Py_ssize_t r = share.row, q, k
    cdef floating *dh
    cdef const floating *mask
    cdef const floating *kept
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            dh = <floating *> job.dh + q * R_whole
            if job.recurrent.start != NULL:
                mask = <const floating *> at(&job.recurrent, time_of(schedule, q, s), schedule.order[q])
                for k in range(share.h, share.h_end):
                    dh[k] *= mask[k]
            if job.options.kept != NULL:
                kept = <const floating *> job.options.kept + q * R_whole
                for k in range(share.h, share.h_end):
                    dh[k] += kept[k]
            if begins(schedule, q, s):  # with the padding of the last vector, which may hold NaN
                memset(dh + share.h, 0, (padded_h - share.h) * sizeof(floating))
                memset(<floating *> job.dc + q * H_whole + share.unit, 0,
                       (padded_unit - share.unit) * sizeof(floating))
        r += share.row_stride


cdef void sum_rows(Backward *job, Py_ssize_t k, Py_ssize_t count, const floating *panels, Py_ssize_t first,
                   Py_ssize_t last, Py_ssize_t rows) noexcept nogil:
    """Add a chunk's part to rows k .. k + count of dW, panels first .. last; k begins a tile."""
    cdef Py_ssize_t V = lanes(panels), panel = job.K * 4 * V
    cdef floating *dW = <floating *> job.dW + first * panel + k * 4 * V
    multiply(<const floating *> job.chunk_a + k * rows, count, 0, panels + first * rows * 4 * V,
             min(4 * last, job.cell.N) - 4 * first, rows, <const floating *> dW, 4 * V, panel, dW, 4 * V,
             panel)


cdef void sum_chunk(Backward *job, Py_ssize_t rows, int thread, int size,
                    const floating *like) noexcept nogil:
    """1' or 5': the sums over all rows of a chunk are products; each thread has some columns of dW."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t first = cell.Q * thread // size, last = cell.Q * (thread + 1) // size   # panels
    if job.dW_x == NULL:
        pass
    elif cell.norm_x == NULL:
        sum_rows(job, 0, job.K, <const floating *> job.panels_dz, first, last, rows)
    else:
        sum_rows(job, 0, cell.I, <const floating *> job.options.panels_dx, first, last, rows)
        sum_rows(job, job.row_h, cell.R, <const floating *> job.options.panels_dh, first, last, rows)
        sum_rows(job, job.row_one, 1, <const floating *> job.panels_dz, first, last, rows)
    if cell.kind == OPTIONS:
        sum_chunk_options(job, rows, thread, size, like)


cdef void inputs_back(Backward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t n, Py_ssize_t row,
                      Py_ssize_t row_end, const floating *like) noexcept nogil:
    """dx, dz @ W_x.T, of rows row .. row_end of a chunk, in steps start .. end, which begin with row n."""
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, V = lanes(like), N_whole = cell.N * V, r, s
    cdef Py_ssize_t I_whole = (I + V - 1) // V * V
    cdef floating *chunk_dx = <floating *> job.chunk_dx
    if job.dx.start == NULL:
        return
    multiply(<const floating *> (job.chunk_dz if cell.norm_x == NULL else job.options.chunk_dx)
             + row * N_whole, row_end - row, N_whole,
             <const floating *> job.panels_x, I_whole // V, cell.D, <const floating *> job.zeros, 0, 4 * V,
             chunk_dx + row * I_whole, I_whole, 4 * V)
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            memcpy(at(&job.dx, time_of(schedule, r, s), schedule.order[r]), chunk_dx + (n + r) * I_whole,
                   I * sizeof(floating))
        n += schedule.active[s]
