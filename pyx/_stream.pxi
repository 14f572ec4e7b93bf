# Single steps with everything prepared, for every dtype and kind of cell; included by _kernels.pyx.

cdef enum:
    # Of a call that reads the weights as they lie, row after row, in multiplications: from so many on packing
    # them pays, if there are enough rows.
    CALL_WORK = 200000


cdef struct Layer:
    Forward job
    Share share             # everything
    Workspace workspace
    # What a call leaves for the way back, OUT (T, B, n): h, gates and c of each step; NULL if nobody asks.
    char *left[3]


# What a call reads and writes, all contiguous; NULL for a state of zeros, and for what nobody asks for.
cdef struct Call:
    int axes                        # of x
    bint batched                    # whether one of these is of rows
    Py_ssize_t T, B
    Py_ssize_t by_time, by_row      # where steps and rows of x and y lie, in rows of these
    const char *x                   # IN   (T, B, I)
    const char *h_0                 # IN   (L, B, R)
    const char *c_0                 # IN   (L, B, H)
    char *y                         # OUT  (T, B, R)
    char *h_n                       # OUT  (L, B, R)
    char *c_n                       # OUT  (L, B, H)


@cython.final
@cython.auto_pickle(False)
cdef class Stream:
    """Stacked layers and the state that they carry, for one step after the other: the base of `clstm.Stream`.

    Parameters: the cells, one a layer; the number of rows; the axes of arguments of a step: "f" for
    (features,), "bf" for (rows, features); packed: take snapshots of the weights (see `pack`), else read them
    where they lie at each step.

    The sums run in the order of `forward`, so that the bits are the same.
    """

    cdef object cells               # keeps the weights alive
    cdef object dtype
    cdef tuple shape                # of what a step returns
    cdef Py_ssize_t L, B, ndim
    cdef double work                # of one step of one row
    cdef readonly Py_ssize_t most_rows  # that a call runs, those of all its steps; 0 if this takes none
    cdef bint single, stepping
    cdef Layer *layers
    cdef const Py_ssize_t *held     # numbers that were held within their range; NULL if nobody is to be told

    @cython.boundscheck(True)
    def __cinit__(self, cells not None, Py_ssize_t rows, str axes not None, bint packed):
        cdef Py_ssize_t k, few
        cdef double work
        self.cells = tuple(cells)
        self.L, self.B, self.ndim = len(self.cells), rows, len(axes)
        self.dtype = self.cells[0].bias.dtype
        self.single = self.dtype.itemsize == sizeof(float)
        self.layers = <Layer *> clstm_alloc(self.L * sizeof(Layer))
        if self.layers == NULL:
            raise MemoryError("not enough memory for a stream")
        memset(self.layers, 0, self.L * sizeof(Layer))
        for k in range(self.L):
            if self.single:
                begin_layer(&self.layers[k], self.cells[k], rows, packed, <float *> NULL)
            else:
                begin_layer(&self.layers[k], self.cells[k], rows, packed, <double *> NULL)
            self.work += work_of(&self.layers[k].job.cell, 1)
        k = self.layers[self.L - 1].job.cell.R
        self.shape = <tuple> (k,) if self.ndim == 1 else <tuple> (rows, k)
        self.held = self.layers[0].job.cell.narrow.held
        if packed:
            work = POLL_WORK
            self.pack()
        else:       # where the weights lie by column, each step transposes them
            work = 0 if self.layers[0].job.cell.W_h_by_column else CALL_WORK
        few = min(<Py_ssize_t> (POLL_WORK / self.work), PACK_ROWS - 1)
        self.most_rows = max(few, <Py_ssize_t> (work / self.work)) if rows == 1 else 0

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

        `out` may be None for a new array. Returns the array; None, with nothing changed, if either is no
        contiguous array of that shape and of the stream's dtype, or if another thread is in the middle of
        a step.
        """
        cdef Py_buffer views[2]
        cdef object taken = None
        if not self.acquire(x, False, self.layers[0].job.cell.I, &views[0]):
            return None
        if out is None:
            out = empty(self.shape, self.dtype)
        if self.acquire(out, True, self.layers[self.L - 1].job.cell.R, &views[1]):
            if not self.stepping:
                taken = out
                self.step(views[0].buf, views[1].buf)
            PyBuffer_Release(&views[1])
        PyBuffer_Release(&views[0])
        self.tell()
        return taken

    def try_reset(self, rows):
        """Set the state of some rows to 0, None for all: a number, a list, an array of intp, a mask.

        Returns False, with nothing changed, for anything else, or if there are no such rows.
        """
        cdef const Array *given
        cdef Py_ssize_t n, row
        cdef list listed
        if rows is None:
            for row in range(self.B):
                self.clear(row)
            return True
        if type(rows) is int:
            rows = [rows]
        if type(rows) is list:
            listed = <list> rows
            for row_object in listed:
                if type(row_object) is not int or not -self.B <= row_object < self.B:
                    return False
            for row_object in listed:
                self.clear(row_object)
            return True
        given = array_of(<PyObject *> rows, array_class, BOOL, LIES_PLAIN)
        if given != NULL and given.nd == 1 and given.dimensions[0] == self.B:
            for row in range(self.B):
                if given.data[row]:
                    self.clear(row)
            return True
        given = array_of(<PyObject *> rows, array_class, intp_num, LIES_PLAIN)
        if given == NULL or given.nd != 1:
            return False
        for n in range(given.dimensions[0]):
            if not -self.B <= (<const Py_ssize_t *> given.data)[n] < self.B:
                return False
        for n in range(given.dimensions[0]):
            self.clear((<const Py_ssize_t *> given.data)[n])
        return True

    cdef inline void clear(self, Py_ssize_t row) noexcept:
        """Set the state of a row to 0; rows below 0 count from the end."""
        cdef Py_ssize_t k, n
        row += self.B if row < 0 else 0
        for k in range(self.L):
            for n in range(2):
                if self.single:
                    put_row(&self.layers[k].job, n, row, <float *> NULL)
                else:
                    put_row(&self.layers[k].job, n, row, <double *> NULL)

    def try_run(self, x, state, bint timed, bint batch_first):
        """Run each row from a given state, over one step or several: y, and the state after.

        Parameters: x (I,) or (B, I), with `timed` (T, I), (T, B, I) or (B, T, I); the state as users have it,
        each part (L, n) or (L, B, n), None for zeros.  For a stream of one row, whose own state is lost; its
        layers are of one size.

        Returns None if an argument is no contiguous array of that shape and of the stream's dtype, if there
        is more work than goes with one row after the other, or if another thread is in the middle of a step.
        """
        cdef const Array *given = self.array_of(x)
        cdef Call call
        if given == NULL or not self.takes(given.nd, given.dimensions, timed, batch_first, &call):
            return None
        call.x = given.data
        if state is not None:
            if self.layers[0].job.cell.kind == RNN:
                call.h_0 = self.part(state, &call, self.layers[0].job.cell.R)
            elif type(state) is tuple and len(<tuple> state) == 2:
                call.h_0 = self.part((<tuple> state)[0], &call, self.layers[0].job.cell.R)
                call.c_0 = self.part((<tuple> state)[1], &call, self.layers[0].job.cell.H)
                if call.c_0 == NULL:
                    return None
            if call.h_0 == NULL:
                return None
        results = self.results(&call, given.dimensions, [])
        if results is None:
            return None
        y, h, c = results
        return y, h if c is None else (h, c)

    def try_addresses(self, shape, bint timed, bint batch_first, size_t x, size_t h_0, size_t c_0, bint keep):
        """Run as `try_run` an x of a shape, where the arguments lie; 0 for a state of zeros: y, h, c, a tape.

        The caller answers for what is there: contiguous, aligned, of the stream's dtype and that state.  The
        tape is a list; layers of LSTMs `keep` h, gates and c of every step there, (T, B, n) each.
        """
        cdef Py_ssize_t dimensions[3]
        cdef Py_ssize_t R = self.layers[0].job.cell.R, H = self.layers[0].job.cell.H, k
        cdef Call call
        cdef list tape = []
        cdef int n, axes = len(shape)
        if axes > 3:
            return None
        for n in range(axes):
            dimensions[n] = shape[n]
        if not self.takes(axes, dimensions, timed, batch_first, &call):
            return None
        call.x, call.h_0, call.c_0 = <const char *> x, <const char *> h_0, <const char *> c_0
        for k in range(3 * self.L if keep else 0):
            tape.append(empty((call.T, call.B, (R, 4 * H, H)[k % 3]), self.dtype))
        results = self.results(&call, dimensions, tape)
        return None if results is None else results + (tape,)

    def try_columns(self, x, h_prev, c_prev):
        """Step one LSTM layer, all arguments and results being columns (n, 1): h and c; else as `try_run`."""
        cdef Py_ssize_t I = self.layers[0].job.cell.I, H = self.layers[0].job.cell.H
        cdef Call call
        cdef tuple shape
        if not self.takes(1, &I, False, False, &call):
            return None
        call.x, call.h_0, call.c_0 = self.column(x, I), self.column(h_prev, H), self.column(c_prev, H)
        if call.x == NULL or call.h_0 == NULL or call.c_0 == NULL:
            return None
        shape = (H, 1)
        h, c = empty(shape, self.dtype), empty(shape, self.dtype)
        call.h_n, call.c_n = (<Array *> h).data, (<Array *> c).data
        return (h, c) if self.run_call(&call, []) else None

    cdef inline const Array *array_of(self, object given) noexcept:
        """A plain array of the stream's dtype as what it is in memory; NULL for anything else."""
        return array_of(<PyObject *> given, array_class, FLOAT if self.single else DOUBLE, LIES_PLAIN)

    cdef inline const char *part(self, object given, const Call *call, Py_ssize_t size) noexcept:
        """Where a part of a state lies: (L, size), with an axis of rows (L, B, size); NULL if it is none."""
        cdef const Array *part = self.array_of(given)
        if part == NULL or part.nd != 2 + call.batched or part.dimensions[0] != self.L:
            return NULL
        if part.dimensions[1 + call.batched] != size or call.batched and part.dimensions[1] != call.B:
            return NULL
        return part.data

    cdef inline const char *column(self, object given, Py_ssize_t size) noexcept:
        """Where a column (size, 1) lies; NULL if it is none."""
        cdef const Array *column = self.array_of(given)
        if column == NULL or column.nd != 2 or column.dimensions[0] != size or column.dimensions[1] != 1:
            return NULL
        return column.data

    cdef inline bint takes(self, int axes, const Py_ssize_t *shape, bint timed, bint batch_first,
                           Call *call) noexcept:
        """Whether an x of a shape fits, and is small enough to run here; call (OUT) has its sizes."""
        memset(call, 0, sizeof(Call))
        call.axes, call.batched = axes, axes == 2 + timed
        if not call.batched and axes != 1 + timed or shape[axes - 1] != self.layers[0].job.cell.I:
            return False
        batch_first = call.batched and (batch_first or not timed)
        call.T = shape[batch_first] if timed else 1
        call.B = shape[timed and not batch_first] if call.batched else 1
        call.by_time, call.by_row = 1 if batch_first else call.B, call.T if batch_first else 1
        return 0 < call.T * call.B <= self.most_rows

    cdef tuple results(self, Call *call, const Py_ssize_t *shape, list tape):
        """Run a call whose x has a shape into new arrays: y, h and c, the last None if the kind has none.

        Returns None if another thread is in the middle of a step.
        """
        cdef Py_ssize_t R = self.layers[0].job.cell.R, H = self.layers[0].job.cell.H
        cdef tuple shape_h, shape_c
        cdef object y, h, c = None
        if call.axes == 3:
            y = empty((shape[0], shape[1], R), self.dtype)
        else:
            y = empty((shape[0], R) if call.axes == 2 else <tuple> (R,), self.dtype)
        if call.batched:
            shape_h = (self.L, call.B, R)
            shape_c = shape_h if H == R else (self.L, call.B, H)
        else:
            shape_h = (self.L, R)
            shape_c = shape_h if H == R else (self.L, H)
        h = empty(shape_h, self.dtype)
        call.y, call.h_n = (<Array *> y).data, (<Array *> h).data
        if self.layers[0].job.c_t != NULL:
            c = empty(shape_c, self.dtype)
            call.c_n = (<Array *> c).data
        if not self.run_call(call, tape):
            return None
        self.tell()
        return y, h, c

    cdef inline int tell(self) except -1:
        """Say once if numbers were held within their range."""
        if self.held != NULL and self.held[0] > 0:
            self.held = NULL
            self.cells[0].narrow.held.tell()
        return 0

    cdef bint run_call(self, const Call *call, list tape) noexcept:
        """Run a call that leaves what has its place on a tape; False if another thread is in a step.

        Nothing that may let another thread in comes between the look and the step.
        """
        cdef Py_ssize_t n
        if self.stepping:
            return False
        self.stepping = True
        for n in range(3 * self.L):
            self.layers[n // 3].left[n % 3] = (<const Array *> tape[n]).data if n < len(tape) else NULL
        if <double> call.T * call.B * self.work < HOLD_GIL_WORK:
            self.run_rows(call)
        else:
            with nogil:
                self.run_rows(call)
        self.stepping = False
        return True

    cdef void run_rows(self, const Call *call) noexcept nogil:
        cdef fp_state caller = flush_denormals()
        if self.single:
            call_layers(self.layers, self.L, call, <float *> NULL)
        else:
            call_layers(self.layers, self.L, call, <double *> NULL)
        restore_denormals(caller)

    cdef inline bint acquire(self, object array, bint writable, Py_ssize_t features,
                             Py_buffer *view) noexcept:
        """Get a buffer, which is to be released, if an argument fits."""
        cdef int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0)
        cdef const Array *plain = self.array_of(array)
        if plain != NULL:               # nothing to be released then
            memset(view, 0, sizeof(Py_buffer))
            view.buf = plain.data
            return (
                plain.nd == self.ndim
                and plain.dimensions[self.ndim - 1] == features
                and (self.ndim < 2 or plain.dimensions[0] == self.B)
                and (not writable or plain.flags & WRITEABLE)
            )
        if PyObject_GetBuffer(array, view, flags) < 0:
            PyErr_Clear()
            return False
        if (
            view.ndim == self.ndim
            and view.shape[self.ndim - 1] == features
            and (self.ndim < 2 or view.shape[0] == self.B)
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
        if job.chunk_x != NULL:
            project_chunk(job, 0, 1, B, 0, B, x)
        step_forward(job, &layers[k].share, 0, B, <floating *> job.chunk_z)
        job.turn = not job.turn
        x, pitch = <const floating *> job.hidden[job.turn], job.pitch


cdef void call_layers(Layer *layers, Py_ssize_t L, const Call *call, const floating *like) noexcept nogil:
    """Run the rows of a call one after the other."""
    cdef Py_ssize_t I = layers[0].job.cell.I, R = layers[0].job.cell.R, H = layers[0].job.cell.H
    cdef Py_ssize_t b, t, k, row
    for b in range(call.B):
        for k in range(L):
            row = k * call.B + b
            put_row(&layers[k].job, 0, 0, row_of(call.h_0, row, R, like))
            put_row(&layers[k].job, 1, 0, row_of(call.c_0, row, H, like))
        for t in range(call.T):
            row = t * call.by_time + b * call.by_row
            for k in range(L):
                layers[k].job.gates.start = <char *> row_of(layers[k].left[1], t * call.B + b, 4 * H, like)
                layers[k].job.c.start = <char *> row_of(layers[k].left[2], t * call.B + b, H, like)
            step_layers(layers, L, 1, row_of(call.x, row, I, like), row_of(call.y, row, R, like))
            for k in range(L):
                get_row(&layers[k].job, 0, 0, row_of(layers[k].left[0], t * call.B + b, R, like))
        for k in range(L):
            row = k * call.B + b
            get_row(&layers[k].job, 0, 0, row_of(call.h_n, row, R, like))
            get_row(&layers[k].job, 1, 0, row_of(call.c_n, row, H, like))
    for k in range(L):
        layers[k].job.gates.start, layers[k].job.c.start = NULL, NULL


cdef inline floating *row_of(const char *array, Py_ssize_t row, Py_ssize_t size,
                             const floating *like) noexcept nogil:
    """Where a row of an array (.., size) lies; NULL if there is no array."""
    return <floating *> array + row * size if array != NULL else NULL


cdef int begin_layer(Layer *layer, object cell, Py_ssize_t rows, bint packed, const floating *like) except -1:
    """Set up the job of one layer: a step on the calling thread, each with inputs and outputs of its own."""
    read_cell(&layer.job.cell, cell, like)
    if (layer.job.cell.kind == OPTIONS or layer.job.cell.narrow.precision) and not packed:
        raise ValueError("packed: expected True for a cell with options or narrow weights, got False")
    layer.share = share_of(False, 0, 1, &layer.job.cell)
    prepare_forward(&layer.job, NULL, rows, False, NULL, packed,
                    packed and layer.job.cell.norm_x == NULL and not layer.job.cell.narrow.precision,
                    &layer.workspace, like)
    if layer.workspace.failed:
        raise MemoryError("not enough memory for a stream")
    return 0


cdef inline floating *state_of(Forward *job, Py_ssize_t n, Py_ssize_t row,
                               const floating *like) noexcept nogil:
    """Where a row of state n lies; NULL if the kind has no such state."""
    if n == 0:
        return <floating *> job.hidden[job.turn] + row * job.pitch
    return <floating *> job.c_t + row * job.cell.U * lanes(like) if job.c_t != NULL else NULL


cdef inline void put_row(Forward *job, Py_ssize_t n, Py_ssize_t row, const floating *values) noexcept nogil:
    """Set a row of state n, if there is one; NULL for zeros."""
    cdef floating *state = state_of(job, n, row, values)
    cdef Py_ssize_t size = (job.cell.H if n else job.cell.R) * sizeof(floating)
    if state == NULL:
        return
    if values == NULL:
        memset(state, 0, size)
    else:
        memcpy(state, values, size)


cdef inline void get_row(Forward *job, Py_ssize_t n, Py_ssize_t row, floating *values) noexcept nogil:
    """Copy a row of state n out, if anybody asks."""
    if values != NULL:
        memcpy(values, state_of(job, n, row, values), (job.cell.H if n else job.cell.R) * sizeof(floating))


@cython.boundscheck(True)
cdef int put_part(Forward *job, Py_ssize_t n, const Py_ssize_t[::1] rows,
                  const floating[:, ::1] values) except -1:
    cdef Py_ssize_t r
    for r in range(rows.shape[0]):
        put_row(job, n, rows[r], &values[r, 0])
    return 0


@cython.boundscheck(True)
cdef int get_part(Forward *job, Py_ssize_t n, const Py_ssize_t[::1] rows,
                  floating[:, ::1] values) except -1:
    cdef Py_ssize_t r
    for r in range(rows.shape[0]):
        get_row(job, n, rows[r], &values[r, 0])
    return 0
