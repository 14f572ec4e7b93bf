# The walk over time, forward and back: one body for whole sequences, chunks, steps and streams, and for every
# kind of cell.  Included by _kernels.pyx.  A step goes through named stages: product (1 or 5), gates (2 to 4,
# or 6), handing out; each is skipped or chosen by what the cell and the job have.

cdef enum:
    # Vectors of units whose gates are computed together, at most, but one panel of all rows at least.
    GATE_VECTORS = 32


# ---------------------------------------------------------------------------------------------------- forward

cdef struct Forward:
    Team team
    Schedule schedule
    Cell cell
    bint by_units
    bint packing            # whether the walk begins with packing the weights
    int turn                # which of `hidden` holds h before step 0
    Py_ssize_t joined       # inputs in front of h in the rows of `hidden`: I, or 0 if chunks are projected
    Steps x                 # IN
    Steps y, gates, c       # OUT; may be none
    const void *h_0         # IN (B, H)
    const void *c_0
    void *h_n               # OUT (B, H); NULL if nobody asks
    void *c_n
    void *panels_x          # (I, N V) in panels; NULL if inputs are joined
    void *panels_h          # (joined + H, N V); NULL if the weights are read as they lie, for few rows
    void *bias_z            # (1, N V)
    void *chunk_x           # (rows, I)
    void *chunk_z           # (Q, rows, 4 V): panel after panel, in each the z of all rows; later gates
    void *flat              # (GH,), for sums with the weights as they lie
    void *c_t               # (B, U V), if the kind has it
    void *hidden[2]         # (B, pitch) h before and after a step, in turn; each points to h of the first row
    Py_ssize_t pitch        # U V, and room for what is joined


cdef void prepare_forward(Forward *job, const Py_ssize_t *lengths, Py_ssize_t B, bint reverse, bint packed,
                          bint joined, Workspace *workspace, const floating *like) noexcept nogil:
    """Plan the order of the rows and take memory for a job that has its cell.

    Without lengths each row has one step; packed: the weights go into panels; joined: inputs and h are
    multiplied at once.
    """
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like)
    cdef Py_ssize_t most, front
    cdef int n
    job.schedule = plan(lengths, B, reverse, cell, workspace)
    most = max(B, min(job.schedule.total, job.schedule.chunk_rows))
    job.panels_x, job.panels_h, job.bias_z = NULL, NULL, NULL
    job.flat, job.chunk_x, job.c_t = NULL, NULL, NULL
    job.joined = cell.I if joined else 0
    front = (job.joined + V - 1) // V * V
    job.pitch = front + cell.U * V
    if packed:
        job.panels_h = take(workspace, (job.joined + cell.H) * cell.N * V * sizeof(floating))
        job.bias_z = take(workspace, cell.Q * 4 * V * sizeof(floating))
        if not joined:
            job.panels_x = take(workspace, cell.I * cell.N * V * sizeof(floating))
            job.chunk_x = take(workspace, most * cell.I * sizeof(floating))
    else:
        job.flat = take(workspace, cell.G * cell.H * sizeof(floating))
    job.chunk_z = take(workspace, most * cell.Q * 4 * V * sizeof(floating))
    if cell.kind == LSTM:
        job.c_t = take_zeros(workspace, B * cell.U * V * sizeof(floating))
    for n in range(2):
        job.hidden[n] = take_zeros(workspace, B * job.pitch * sizeof(floating))
        if job.hidden[n] != NULL:
            job.hidden[n] = <floating *> job.hidden[n] + front


cdef void load_state(Forward *job, const floating *like) noexcept nogil:
    """Copy the initial state in, and out again for the rows that have no steps."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t V = lanes(like), H = job.cell.H
    cdef Py_ssize_t size = H * sizeof(floating), r, b
    for r in range(schedule.B):
        b = schedule.order[r]
        memcpy(<floating *> job.hidden[0] + r * job.pitch, <const floating *> job.h_0 + b * H, size)
        if job.c_t != NULL:
            memcpy(<floating *> job.c_t + r * job.cell.U * V, <const floating *> job.c_0 + b * H, size)
        if schedule.length[r] == 0:
            memcpy(<floating *> job.h_n + b * H, <const floating *> job.h_0 + b * H, size)
            if job.c_t != NULL:
                memcpy(<floating *> job.c_n + b * H, <const floating *> job.c_0 + b * H, size)


cdef int run_forward(Forward *job, Py_ssize_t T, const Py_ssize_t *lengths, Py_ssize_t B, bint reverse,
                     const floating *like) except -1:
    """Run a job that has its cell, arrays and states; without lengths each row has one step."""
    cdef int threads = max_threads          # read with the GIL
    cdef Py_ssize_t total = B, b
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    job.turn = 0
    begin(&job.team, polls(work_of(&job.cell, <double> T * B)))
    with nogil:
        if lengths != NULL:
            total = 0
            for b in range(B):
                total += lengths[b]
        job.packing = total >= PACK_ROWS
        prepare_forward(job, lengths, B, reverse, job.packing, False, &workspace, like)
        if not workspace.failed:
            load_state(job, like)
            zero_padding(&job.y, &job.schedule, T, sizeof(floating))
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
    """What one thread does of a forward pass."""
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef double row_work = work_of(cell, 1)
    cdef Py_ssize_t start = 0, end, rows, done, s
    cdef int size = team.size
    cdef Share share

    if job.packing:
        pack_weights(job, thread, size, like)
        if not barrier(team, thread):
            return
    while start < schedule.steps:
        end = chunk_end(schedule, start, &rows)
        if job.chunk_x != NULL:
            project_chunk(job, start, end, rows, rows * thread // team.size, rows * (thread + 1) // team.size,
                          like)
            if not barrier(team, thread):
                return
        size = team.size
        share = share_of(job.by_units, thread, size, cell)
        done = 0
        for s in range(start, end):
            step_forward(job, &share, s, rows, <floating *> job.chunk_z + done * 4 * lanes(like))
            done += schedule.active[s]
            poll(team, thread, row_work * schedule.active[s], caller)
            if stopped(team) or (job.by_units and not barrier(team, thread)):
                return
            if team.size < size:                # the barrier has left this thread alone
                size = team.size
                share = share_of(job.by_units, thread, size, cell)
        start = end
        if not barrier(team, thread):
            return


cdef void pack_weights(Forward *job, int thread, int size, const floating *like) noexcept nogil:
    """One thread's part of the weights into panels."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, H = cell.H
    cdef bint joined = job.joined > 0
    pack(cell, <const floating *> cell.W_x, I * thread // size, I * (thread + 1) // size,
         0, I + H if joined else I, <floating *> (job.panels_h if joined else job.panels_x))
    pack(cell, <const floating *> cell.W_h, H * thread // size, H * (thread + 1) // size,
         job.joined, job.joined + H, <floating *> job.panels_h)
    if thread == 0:
        pack_row(cell, <const floating *> cell.bias, 0, 1, <floating *> job.bias_z)


cdef void project_chunk(Forward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t rows, Py_ssize_t row,
                        Py_ssize_t row_end, const floating *like) noexcept nogil:
    """Product, the part of x, for all steps of a chunk at once: rows row .. row_end of its `rows`."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.cell.I, V = lanes(like), n = 0, r, s
    cdef floating *chunk_x = <floating *> job.chunk_x
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            memcpy(chunk_x + (n + r) * I, at(&job.x, time_of(schedule, r, s), schedule.order[r]),
                   I * sizeof(floating))
        n += schedule.active[s]
    multiply(<const floating *> chunk_x + row * I, row_end - row, I,
             <const floating *> job.panels_x, job.cell.N, I, <const floating *> job.bias_z, 0, 4 * V,
             <floating *> job.chunk_z + row * 4 * V, 4 * V, rows * 4 * V)


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
    cdef Py_ssize_t depth = job.joined + cell.H
    cdef const floating *panels = <const floating *> job.panels_h
    # What there is of z: the bias, or its sum with the part of x.
    cdef const floating *start = <const floating *> job.bias_z if job.joined else <const floating *> z
    cdef Py_ssize_t start_row = 0 if job.joined else 4 * V, start_panel = 4 * V if job.joined else z_panel
    # Panels from product to gates at once: their z stays in the L1 cache, and units are enough to overlap.
    cdef Py_ssize_t count = share.panel_end - share.panel, group = count, groups = 1
    cdef Py_ssize_t n, r, first, last
    cdef char *x

    if running * cell.W * count > GATE_VECTORS:
        group = max(1, GATE_VECTORS // (running * cell.W))
        groups = (count + group - 1) // group
    if panels == NULL:
        for r in range(running):
            x = at(&job.x, time_of(&job.schedule, r, s), job.schedule.order[r])
            multiply_in_place(cell, <const floating *> x, h_prev + r * job.pitch, <floating *> job.flat, rows,
                              z + r * 4 * V)
    for n in range(groups):
        first = share.panel + group * (groups - 1 - n if descending else n)
        last = min(first + group, share.panel_end)
        if panels != NULL:
            multiply(h_prev - job.joined, running, job.pitch, panels + first * 4 * V * depth,
                     min(4 * last, cell.N) - 4 * first, depth, start + first * start_panel, start_row,
                     start_panel, z + first * z_panel, 4 * V, z_panel, share.row, share.row_stride,
                     descending)
        # Constants, so that the compiler makes a loop of its own for each part of each kind.
        if cell.kind == LSTM:
            gates_forward(LSTM, 0, 4, job, share, running, first, last, z, z_panel, h)
            gates_forward(LSTM, 1, 4, job, share, running, first, last, z, z_panel, h)
        else:
            gates_forward(RNN, 0, 1, job, share, running, first, last, z, z_panel, h)
    hand_out(job, share, s, <const floating *> z, z_panel, <const floating *> h)


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
    cdef Py_ssize_t V = lanes(z), H = job.cell.H, U = job.cell.U
    cdef Py_ssize_t unit = share.u * V                                          # the first
    cdef Py_ssize_t size = (min(H, share.u_end * V) - unit) * sizeof(floating)
    cdef Py_ssize_t r = share.row, q, t, b
    cdef const floating *c = <const floating *> job.c_t
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            if job.y.start != NULL:
                memcpy(<floating *> at(&job.y, t, b) + unit, h + q * job.pitch + unit, size)
            if job.gates.start != NULL:
                unpack_row(&job.cell, z + q * 4 * V, z_panel, share.u, share.u_end,
                           <floating *> at(&job.gates, t, b))
            if job.c.start != NULL:
                memcpy(<floating *> at(&job.c, t, b) + unit, c + q * U * V + unit, size)
            if q >= schedule.active[s + 1] and job.h_n != NULL:     # the row's last step
                memcpy(<floating *> job.h_n + b * H + unit, h + q * job.pitch + unit, size)
                if c != NULL:
                    memcpy(<floating *> job.c_n + b * H + unit, c + q * U * V + unit, size)
        r += share.row_stride


# --------------------------------------------------------------------------------------------------- backward

cdef struct Backward:
    Team team
    Schedule schedule
    Cell cell
    bint by_units
    Steps dy, x, y, gates, c        # IN
    Steps dx                        # OUT
    const void *h_0                 # IN (B, H)
    const void *c_0
    const void *dh_n
    const void *dc_n
    void *dW_x                      # OUT
    void *dW_h
    void *dbias
    void *dh_0
    void *dc_0
    void *panels_x                  # W_x transposed, (N V, I) in panels
    void *panels_h                  # W_h transposed, (N V, H)
    void *chunk_a                   # (I + H + 1, rows) in tiles: [x; h_prev; 1], the bias is one more weight
    void *chunk_dz                  # (rows, N V)
    void *panels_dz                 # the same in panels
    void *chunk_dx                  # (rows, I in whole vectors)
    void *dW                        # (Q, I + H + 1, 4 V)
    void *dh                        # (B, U V) from later steps
    void *dc                        # (B, U V) from later steps, times f
    void *padded                    # gates, c, c_prev, dy of the last units, V of them, for each thread
    void *zeros                     # a row of 0, as wide as H and I
    Py_ssize_t *ends                # of the chunks


cdef int run_backward(Backward *job, Py_ssize_t T, const Py_ssize_t *lengths, Py_ssize_t B, bint reverse,
                      const floating *like) except -1:
    """Run a job that has its cell, arrays and states."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like), I = cell.I, H = cell.H
    cdef Py_ssize_t I_whole = (I + V - 1) // V * V, H_whole = cell.U * V, N_whole = cell.N * V, K = I + H + 1
    cdef Py_ssize_t size = H * sizeof(floating), most, r, b
    cdef int threads = max_threads          # read with the GIL
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(work_of(cell, <double> T * B)))
    with nogil:
        job.schedule = plan(lengths, B, reverse, cell, &workspace)
        most = max(B, job.schedule.chunk_rows)
        threads = threads_for(&job.schedule, cell, threads, &job.by_units)
        job.panels_x = take(&workspace, I_whole * N_whole * sizeof(floating))
        job.panels_h = take(&workspace, H_whole * N_whole * sizeof(floating))
        job.chunk_a = take(&workspace, most * (K + tile_rows(4)) * sizeof(floating))
        job.chunk_dz = take(&workspace, most * N_whole * sizeof(floating))
        job.panels_dz = take(&workspace, most * N_whole * sizeof(floating))
        job.chunk_dx = take(&workspace, most * I_whole * sizeof(floating))
        job.dW = take_zeros(&workspace, K * cell.Q * 4 * V * sizeof(floating))
        job.dh = take_zeros(&workspace, B * H_whole * sizeof(floating))
        job.dc = take_zeros(&workspace, B * H_whole * sizeof(floating))
        job.padded = take_zeros(&workspace, threads * 7 * V * sizeof(floating))
        job.zeros = take_zeros(&workspace, max(H_whole, I_whole) * sizeof(floating))
        job.ends = <Py_ssize_t *> take(&workspace, job.schedule.steps * sizeof(Py_ssize_t))
        if not workspace.failed:
            for r in range(B):
                b = job.schedule.order[r]
                memcpy(<floating *> job.dh + r * H_whole, <const floating *> job.dh_n + b * H, size)
                if cell.kind == LSTM:
                    memcpy(<floating *> job.dc + r * H_whole, <const floating *> job.dc_n + b * H, size)
            zero_padding(&job.dx, &job.schedule, T, sizeof(floating))
            if floating is float:
                run_team(threads, backward_f32, job, sizeof(Backward), &job.team)
            else:
                run_team(threads, backward_f64, job, sizeof(Backward), &job.team)
            for r in range(B):
                b = job.schedule.order[r]
                memcpy(<floating *> job.dh_0 + b * H, <const floating *> job.dh + r * H_whole, size)
                if cell.kind == LSTM:
                    memcpy(<floating *> job.dc_0 + b * H, <const floating *> job.dc + r * H_whole, size)
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
    """What one thread does of a backward pass."""
    cdef Team *team = &job.team
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, H = cell.H, U = cell.U, K = I + H + 1, V = lanes(like)
    cdef Py_ssize_t size = team.size
    cdef Py_ssize_t chunks = 0, start = 0, rows, n, s, k
    cdef double row_work = work_of(cell, 1)
    cdef floating *dW = <floating *> job.dW
    cdef Share share

    pack_transposed(cell, <const floating *> cell.W_x, I, U * thread // size, U * (thread + 1) // size,
                    <floating *> job.panels_x)
    pack_transposed(cell, <const floating *> cell.W_h, H, U * thread // size, U * (thread + 1) // size,
                    <floating *> job.panels_h)
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
        gather_operands(job, start, job.ends[chunks], rows * thread // team.size,
                        rows * (thread + 1) // team.size, rows, like)

        # 4' to 2', or 6', and the carry to the step before.
        n = rows
        share = share_of(job.by_units, thread, team.size, cell)
        for s in range(job.ends[chunks] - 1, start - 1, -1):
            n -= schedule.active[s]
            if cell.kind == LSTM:
                gates_backward(LSTM, 4, job, &share, thread, s, n, rows, like)
            else:
                gates_backward(RNN, 1, job, &share, thread, s, n, rows, like)
            poll(team, thread, row_work * schedule.active[s], caller)
            if stopped(team) or (job.by_units and not barrier(team, thread)):
                return
            # The barrier may have left this thread alone.
            share = share_of(job.by_units, thread, team.size, cell)
            carry_back(job, &share, s, <const floating *> job.chunk_dz + n * cell.N * V)
        if not barrier(team, thread):
            return
        size = team.size
        sum_chunk(job, start, job.ends[chunks], rows, thread, size, like)
        if not barrier(team, thread):
            return

    for k in range(K * thread // team.size, K * (thread + 1) // team.size):
        unpack_row(cell, <const floating *> dW + k * 4 * V, K * 4 * V, 0, U,
                   <floating *> job.dW_x + k * cell.G * H if k < I else
                   <floating *> job.dW_h + (k - I) * cell.G * H if k < I + H else <floating *> job.dbias)


cdef void gather_operands(Backward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t row, Py_ssize_t row_end,
                          Py_ssize_t rows, const floating *like) noexcept nogil:
    """Rows row .. row_end of [x; h_prev; 1], which the weights were multiplied by, in steps start .. end."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t I = job.cell.I, H = job.cell.H, n = 0, r, s, b
    cdef const floating *h_prev
    cdef floating one = 1
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            b = schedule.order[r]
            h_prev = <const floating *> (at(&job.y, time_of(schedule, r, s - 1), b) if s
                                         else <char *> job.h_0 + b * H * sizeof(floating))
            into_tiles(<const floating *> at(&job.x, time_of(schedule, r, s), b), I, 0, n + r, rows,
                       <floating *> job.chunk_a)
            into_tiles(h_prev, H, I, n + r, rows, <floating *> job.chunk_a)
            into_tiles(<const floating *> &one, 1, I + H, n + r, rows, <floating *> job.chunk_a)
        n += schedule.active[s]


cdef inline void gates_backward(int kind, Py_ssize_t G, Backward *job, const Share *share, int thread,
                                Py_ssize_t s, Py_ssize_t n, Py_ssize_t rows,
                                const floating *like) noexcept nogil:
    """4' to 2', or 6', for the rows and units of one thread; the step's rows begin at row n of the chunk."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t H = job.cell.H, U = job.cell.U, N = job.cell.N, V = lanes(like)
    cdef floating *padded = <floating *> job.padded + thread * 7 * V
    cdef floating *panels_dz = <floating *> job.panels_dz
    cdef const floating *gates
    cdef const floating *c = NULL
    cdef const floating *c_prev = NULL
    cdef const floating *dy
    cdef floating *dh
    cdef floating *dc
    cdef floating *dz
    cdef Py_ssize_t r = share.row, q, t, b, u, g, count, panel, width
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            gates = <const floating *> at(&job.gates, t, b)
            dy = <const floating *> at(&job.dy, t, b)
            if kind == LSTM:
                c = <const floating *> at(&job.c, t, b)
                c_prev = <const floating *> (at(&job.c, time_of(schedule, q, s - 1), b) if s
                                             else <char *> job.c_0 + b * H * sizeof(floating))
            for u in range(share.u, share.u_end):
                dh = <floating *> job.dh + (q * U + u) * V
                dc = <floating *> job.dc + (q * U + u) * V
                dz = <floating *> job.chunk_dz + ((n + q) * U + u) * G * V
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
                                   padded + 6 * V, <const floating *> dh, dc, dz)
                panel = G * u // 4
                width = min(4, N - 4 * panel)
                memcpy(panels_dz + (4 * panel * rows + (n + q) * width + G * u - 4 * panel) * V, dz,
                       G * V * sizeof(floating))
        r += share.row_stride


cdef void carry_back(Backward *job, const Share *share, Py_ssize_t s, const floating *dz) noexcept nogil:
    """dh of the step before, dz @ W_h.T, for the rows and units of one thread."""
    cdef Py_ssize_t V = lanes(dz), depth = job.cell.N * lanes(dz)
    multiply(dz, job.schedule.active[s], depth, <const floating *> job.panels_h + share.u * V * depth,
             share.u_end - share.u, depth, <const floating *> job.zeros, 0, 4 * V,
             <floating *> job.dh + share.u * V, job.cell.U * V, 4 * V, share.row, share.row_stride)


cdef void sum_chunk(Backward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t rows, int thread, int size,
                    const floating *like) noexcept nogil:
    """1' or 5': the sums over all rows of a chunk are products.

    Each thread has some columns of dW, and some rows of dx.
    """
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t I = cell.I, K = cell.I + cell.H + 1, V = lanes(like)
    cdef Py_ssize_t I_whole = (I + V - 1) // V * V, depth = cell.N * V
    cdef Py_ssize_t first = cell.Q * thread // size, last = cell.Q * (thread + 1) // size   # panels
    cdef Py_ssize_t row = rows * thread // size, row_end = rows * (thread + 1) // size
    cdef Py_ssize_t n = 0, r, s
    cdef floating *dW = <floating *> job.dW + first * K * 4 * V
    cdef floating *chunk_dx = <floating *> job.chunk_dx
    multiply(<const floating *> job.chunk_a, K, 0, <const floating *> job.panels_dz + first * rows * 4 * V,
             min(4 * last, cell.N) - 4 * first, rows, <const floating *> dW, 4 * V, K * 4 * V,
             dW, 4 * V, K * 4 * V)
    multiply(<const floating *> job.chunk_dz + row * depth, row_end - row, depth,
             <const floating *> job.panels_x, I_whole // V, depth, <const floating *> job.zeros, 0, 4 * V,
             chunk_dx + row * I_whole, I_whole, 4 * V)
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            memcpy(at(&job.dx, time_of(schedule, r, s), schedule.order[r]), chunk_dx + (n + r) * I_whole,
                   I * sizeof(floating))
        n += schedule.active[s]
