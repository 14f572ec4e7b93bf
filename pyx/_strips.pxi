# Several passes at once: two directions, or stacked layers, as strips whose chunks threads take as they
# become ready (strips.h).  Included by _kernels.pyx.  Each pass is a job of its own; the walk is that of a
# single one, a chunk, or back a slice of one, at a time.

cdef enum:
    # Rows of a chunk in a chain, at least two tiles, and chunks of a pass that has few rows, at most: the
    # first and the last ones find one thread alone.
    SLICE_ROWS = 12
    SLICES = 16


cdef struct Strips:
    Order order             # `done` and `goal` count steps
    void *jobs              # order.count of Forward, or of Backward
    bint back


cdef int threads_for_strips(const Extent *extent, const Cell *cell, Py_ssize_t count, double work) noexcept:
    """Return how many threads pay for passes at once; 1 if the passes had better follow each other.

    Where threads can share the rows or the units of a pass, they do: each has its part of the weights in its
    cache then, and nobody waits for the first and the last chunk of a chain.
    """
    cdef bint by_units
    cdef Schedule sizes = sizes_of(extent)
    if work < TEAM_WORK or solo() or threads_for(&sizes, cell, max_threads, &by_units) > 1:
        return 1
    return <int> min(max_threads, count)


cdef int run_strips(void *jobs, bint back, Py_ssize_t count, bint stacked, int threads, double work,
                    const floating *like) except -1:
    """Run jobs that have their cells, extents, arrays and states."""
    cdef Py_ssize_t k
    cdef Strips strips
    cdef Workspace own
    cdef Workspace *workspaces
    cdef bint failed = False, cancelled
    memset(&strips, 0, sizeof(Strips))
    strips.jobs, strips.back = jobs, back
    strips.order.count, strips.order.chained = count, stacked
    own.count, own.failed = 0, False
    workspaces = <Workspace *> take_zeros(&own, count * sizeof(Workspace))
    strips.order.strips = <Strip *> take_zeros(&own, count * sizeof(Strip))
    begin(&strips.order.team, polls(work))
    strips.order.team.counted = True
    if not own.failed:
        with nogil:
            for k in range(count):
                ready_strip(&strips, k, stacked, &workspaces[k], like)
                failed = failed or workspaces[k].failed
            if not failed:
                if floating is float:
                    run_team(threads, strips_f32, &strips, sizeof(Strips), &strips.order.team)
                else:
                    run_team(threads, strips_f64, &strips, sizeof(Strips), &strips.order.team)
                if back:
                    for k in range(count):
                        hand_out_back(&(<Backward *> jobs)[k], like)
    cancelled = strips.order.team.cancelled
    if not own.failed:
        for k in range(count):
            workspaces[k].failed = False
            release(&workspaces[k], False)
        own.failed = failed
    return release(&own, cancelled)


cdef void ready_strip(Strips *strips, Py_ssize_t k, bint stacked, Workspace *workspace,
                      const floating *like) noexcept nogil:
    """Prepare one of the jobs, and say how far it is to go first."""
    cdef Strip *strip = &strips.order.strips[k]
    cdef Forward *job
    cdef Backward *job_back
    if strips.back:
        job_back = &(<Backward *> strips.jobs)[k]
        begin(&job_back.team, False)
        job_back.slice = slice_of(&job_back.extent) if stacked else 0
        threads_back(job_back, 1, workspace, like)
        ready_back(job_back, 1, workspace, like)
        strip.steps = job_back.schedule.steps
        if not workspace.failed:
            strip.goal = goal_back(job_back)
    else:
        job = &(<Forward *> strips.jobs)[k]
        begin(&job.team, False)
        job.slice = slice_of(&job.extent) if stacked else 0
        ready_forward(job, workspace, like)
        strip.steps = job.schedule.steps
        if not workspace.failed:
            strip.goal = goal_forward(job)


cdef inline Py_ssize_t slice_of(const Extent *extent) noexcept nogil:
    """Rows after which the next layer of a chain may begin."""
    return max(SLICE_ROWS, total_steps(extent) // SLICES)


cdef Py_ssize_t goal_forward(const Forward *job) noexcept nogil:
    """How many steps there will be after the next chunk."""
    cdef Py_ssize_t rows
    return chunk_end(&job.schedule, job.place.s, &rows)


cdef Py_ssize_t goal_back(const Backward *job) noexcept nogil:
    """The same after the next slice; the steps are counted from the last one."""
    cdef const Place *place = &job.place
    cdef Py_ssize_t start = place.start, s = place.s
    if s == start:
        if place.chunk == 0:
            return job.schedule.steps
        start, s = job.ends[place.chunk - 2] if place.chunk > 1 else 0, job.ends[place.chunk - 1]
    return job.schedule.steps - slice_begin(&job.schedule, job.slice, start, s)


cdef void strips_f32(void *strips, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_strips(<Strips *> strips, thread, caller, <float *> NULL)
    restore_denormals(caller)


cdef void strips_f64(void *strips, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_strips(<Strips *> strips, thread, caller, <double *> NULL)
    restore_denormals(caller)


cdef void walk_strips(Strips *strips, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread does: whatever is ready."""
    cdef Order *order = &strips.order
    cdef bint signals = thread == 0 and order.team.signals
    cdef Py_ssize_t k = -1
    cdef Forward *job
    cdef Backward *job_back
    while True:
        k = next_chunk(order, thread, k)
        if k < 0:
            return
        if strips.back:
            job_back = &(<Backward *> strips.jobs)[k]
            job_back.team.signals = signals
            if job_back.place.end == 0:
                begin_back(job_back, 0, like)
            if chunk_back(job_back, 0, &job_back.place, caller, like):
                if job_back.place.chunk == 0 and job_back.place.s == job_back.place.start:
                    end_back(job_back, 0, like)
            else:
                order.team.cancelled = True
            finish_chunk(order, thread, k, goal_back(job_back))
        else:
            job = &(<Forward *> strips.jobs)[k]
            job.team.signals = signals
            if not chunk_forward(job, 0, &job.place, caller, like):
                order.team.cancelled = True
            finish_chunk(order, thread, k, goal_forward(job))
