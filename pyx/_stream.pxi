# Single steps with everything prepared, for every dtype and kind of cell; included by _kernels.pyx.

cdef struct Layer:
    Forward job
    Share share             # everything
    Workspace workspace


@cython.final
@cython.auto_pickle(False)
cdef class Stream:
    """Stacked layers and the state that they carry, for one step after the other: the base of `clstm.Stream`.

    Parameters: the cells, one a layer; the number of rows; the axes of arguments: "f" for (features,), "bf"
    for (rows, features), "f1" for columns (features, 1), "" for arrays of any shape that hold as many
    numbers; packed: take snapshots of the weights (see `pack`), else read them where they lie at each step.

    The sums run in the order of `forward`, so that the bits are the same.
    """

    cdef object cells               # keeps the weights alive
    cdef Py_ssize_t L, B, ndim
    cdef bint single, column, stepping
    cdef Layer *layers

    @cython.boundscheck(True)
    def __cinit__(self, cells not None, Py_ssize_t rows, str axes not None, bint packed):
        cdef Py_ssize_t k
        self.cells = tuple(cells)
        self.L, self.B, self.ndim, self.column = len(self.cells), rows, len(axes), axes == "f1"
        self.single = self.cells[0].W_x.itemsize == sizeof(float)
        self.layers = <Layer *> clstm_alloc(self.L * sizeof(Layer))
        if self.layers == NULL:
            raise MemoryError("not enough memory for a stream")
        memset(self.layers, 0, self.L * sizeof(Layer))
        for k in range(self.L):
            if self.single:
                begin_layer(&self.layers[k], self.cells[k], rows, packed, <float *> NULL)
            else:
                begin_layer(&self.layers[k], self.cells[k], rows, packed, <double *> NULL)
        if packed:
            self.pack()

    def __dealloc__(self):
        cdef Py_ssize_t k
        if self.layers != NULL:
            for k in range(self.L):
                self.layers[k].workspace.failed = False
                release(&self.layers[k].workspace, False)
        clstm_free(self.layers)

    def pack(self):
        """Take a snapshot of the present weights of every layer."""
        cdef Py_ssize_t k
        for k in range(self.L):
            if self.single:
                pack_weights(&self.layers[k].job, 0, 1, <float *> NULL)
            else:
                pack_weights(&self.layers[k].job, 0, 1, <double *> NULL)

    def put_states(self, Py_ssize_t k, const Py_ssize_t[::1] rows not None, tuple state not None):
        """Set the state of n rows of layer k from arrays (n, R) and (n, H)."""
        cdef Py_ssize_t n
        for n in range(len(state)):
            if self.single:
                put_part[float](&self.layers[k].job, n, rows, state[n])
            else:
                put_part[double](&self.layers[k].job, n, rows, state[n])

    def get_states(self, Py_ssize_t k, const Py_ssize_t[::1] rows not None, tuple state not None):
        """Copy the state of n rows of layer k to arrays (n, R) and (n, H)."""
        cdef Py_ssize_t n
        for n in range(len(state)):
            if self.single:
                get_part[float](&self.layers[k].job, n, rows, state[n])
            else:
                get_part[double](&self.layers[k].job, n, rows, state[n])

    def try_step(self, x, out):
        """Step all layers from x (rows, I) to out (rows, R), on the axes of this stream.

        Returns False, with nothing changed, if either is no contiguous array of that shape and of the
        stream's dtype, or if another thread is in the middle of a step.
        """
        cdef Py_buffer views[2]
        cdef bint taken = False
        if not self.acquire(x, False, self.layers[0].job.cell.I, &views[0]):
            return False
        if self.acquire(out, True, self.layers[self.L - 1].job.cell.R, &views[1]):
            if not self.stepping:
                taken = True
                self.step(views[0].buf, views[1].buf)
            PyBuffer_Release(&views[1])
        PyBuffer_Release(&views[0])
        return taken

    def try_step_from(self, x, h_prev, c_prev, h, c):
        """Step one LSTM layer of one row from a given state to h and c; the rest as for `try_step`.

        The layer has no projection.
        """
        cdef Py_buffer views[5]
        cdef Forward *job = &self.layers[0].job
        cdef Py_ssize_t size = job.cell.H * (sizeof(float) if self.single else sizeof(double))
        cdef int n = 0
        cdef bint taken
        for array in (x, h_prev, c_prev, h, c):
            if not self.acquire(array, n > 2, job.cell.H if n else job.cell.I, &views[n]):
                break
            n += 1
        taken = n == 5 and not self.stepping
        if taken:
            memcpy(job.hidden[job.turn], views[1].buf, size)
            memcpy(job.c_t, views[2].buf, size)
            self.step(views[0].buf, views[3].buf)
            memcpy(views[4].buf, job.c_t, size)
        while n > 0:
            n -= 1
            PyBuffer_Release(&views[n])
        return taken

    cdef inline bint acquire(self, object array, bint writable, Py_ssize_t features,
                             Py_buffer *view) noexcept:
        """Get a buffer, which is to be released, if an argument fits."""
        cdef int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0)
        if PyObject_GetBuffer(array, view, flags) < 0:
            PyErr_Clear()
            return False
        if (
            (self.ndim > 0 or view.len == self.B * features * view.itemsize)
            and (self.ndim == 0 or view.ndim == self.ndim)
            and (self.ndim == 0 or view.shape[0 if self.column else self.ndim - 1] == features)
            and (self.ndim < 2 or view.shape[1 if self.column else 0] == self.B)
            and view.format[0] == (c'f' if self.single else c'd')
            and view.format[1] == 0
            and (<size_t> view.buf) % view.itemsize == 0
        ):
            return True
        PyBuffer_Release(view)
        return False

    cdef inline void step(self, const void *x, void *out) noexcept:
        cdef const Cell *cell = &self.layers[self.L - 1].job.cell
        self.stepping = True
        if self.B * self.L * cell.G * cell.H * cell.H < HOLD_GIL_WORK:
            self.run(x, out)
        else:
            with nogil:
                self.run(x, out)
        self.stepping = False

    cdef void run(self, const void *x, void *out) noexcept nogil:
        cdef fp_state caller = flush_denormals()
        if self.single:
            step_layers(self.layers, self.L, self.B, <const float *> x, <float *> out)
        else:
            step_layers(self.layers, self.L, self.B, <const double *> x, <double *> out)
        restore_denormals(caller)


cdef inline void step_layers(Layer *layers, Py_ssize_t L, Py_ssize_t B, const floating *x,
                             floating *out) noexcept nogil:
    """One step through the layers: x (B, I) IN, out (B, R) OUT."""
    cdef Py_ssize_t pitch = layers[0].job.cell.I, k, r
    cdef Forward *job
    for k in range(L):
        job = &layers[k].job
        if job.joined:
            for r in range(B):
                memcpy(<floating *> job.hidden[job.turn] + r * job.pitch - job.joined, x + r * pitch,
                       job.joined * sizeof(floating))
        job.x.start, job.x.by_row = <char *> x, pitch * sizeof(floating)
        job.y.start, job.y.by_row = <char *> out if k == L - 1 else NULL, job.cell.R * sizeof(floating)
        if job.panels_x != NULL:
            project_chunk(job, 0, 1, B, 0, B, x)
        step_forward(job, &layers[k].share, 0, B, <floating *> job.chunk_z)
        job.turn = not job.turn
        x, pitch = <const floating *> job.hidden[job.turn], job.pitch


cdef int begin_layer(Layer *layer, object cell, Py_ssize_t rows, bint packed, const floating *like) except -1:
    """Set up the job of one layer: a step on the calling thread, each with inputs and outputs of its own."""
    read_cell(&layer.job.cell, cell, like)
    if layer.job.cell.kind == OPTIONS and not packed:
        raise ValueError("packed: expected True for a cell with options, got False")
    layer.share = share_of(False, 0, 1, &layer.job.cell)
    prepare_forward(&layer.job, NULL, rows, False, NULL, packed, packed and layer.job.cell.norm_x == NULL,
                    &layer.workspace, like)
    if layer.workspace.failed:
        raise MemoryError("not enough memory for a stream")
    return 0


cdef inline floating *state_of(Forward *job, Py_ssize_t n, Py_ssize_t row, const floating *like) noexcept:
    """Where a row of state n lies."""
    if n == 0:
        return <floating *> job.hidden[job.turn] + row * job.pitch
    return <floating *> job.c_t + row * job.cell.U * lanes(like)


cdef inline Py_ssize_t bytes_of_state(const Forward *job, Py_ssize_t n, const floating *like) noexcept:
    """What a row of state n takes."""
    return (job.cell.H if n else job.cell.R) * sizeof(floating)


@cython.boundscheck(True)
cdef int put_part(Forward *job, Py_ssize_t n, const Py_ssize_t[::1] rows,
                  const floating[:, ::1] values) except -1:
    cdef Py_ssize_t r
    cdef const floating *like = NULL
    for r in range(rows.shape[0]):
        memcpy(state_of(job, n, rows[r], like), &values[r, 0], bytes_of_state(job, n, like))
    return 0


@cython.boundscheck(True)
cdef int get_part(Forward *job, Py_ssize_t n, const Py_ssize_t[::1] rows,
                  floating[:, ::1] values) except -1:
    cdef Py_ssize_t r
    cdef const floating *like = NULL
    for r in range(rows.shape[0]):
        memcpy(&values[r, 0], state_of(job, n, rows[r], like), bytes_of_state(job, n, like))
    return 0
