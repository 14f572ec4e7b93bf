# A stream of single steps with packed weights, for every dtype and any number of layers; included by
# _kernels.pyx.

from cython import auto_pickle

cdef extern from "Python.h":
    int PyObject_GetBuffer(object exporter, Py_buffer *view, int flags) noexcept
    void PyBuffer_Release(Py_buffer *view)
    void PyErr_Clear()
    enum:
        PyBUF_FORMAT
        PyBUF_C_CONTIGUOUS
        PyBUF_WRITABLE


cdef struct StreamLayer:
    Py_ssize_t I, depth     # inputs; I + H
    Py_ssize_t row          # numbers between rows of operands; each row is [x; h] with h aligned
    void *panels            # (P, I + H, 4V)
    void *bias_z            # (P, 4, V)
    void *operands          # (B, row)
    void *c                 # (B, Hp)


@auto_pickle(False)
cdef class Stream:
    """Packed weights of stacked layers and the state that they carry: the fast path under `clstm.Stream`.

    A step copies a row of x beside h_prev, runs one product of depth I + H a layer, and writes h back beside the next x.
    The sums run in the order of `forward`, so that the bits are the same.
    """

    cdef Py_ssize_t rows
    cdef Py_ssize_t L, I, H, P, V, ndim
    cdef bint single, descending, stepping
    cdef StreamLayer *layers
    cdef void *z
    cdef void *h

    def __cinit__(self, Py_ssize_t num_layers, Py_ssize_t rows, Py_ssize_t input_size, Py_ssize_t hidden_size, bint single,
                  bint batched):
        cdef Py_ssize_t itemsize = sizeof(float) if single else sizeof(double)
        cdef Py_ssize_t Hp, k
        cdef StreamLayer *layer
        self.V = LANES_F32 if single else LANES_F64
        self.P = (hidden_size + self.V - 1) // self.V
        self.rows, self.L, self.I, self.H, self.single = rows, num_layers, input_size, hidden_size, single
        self.ndim = 2 if batched else 1
        Hp = self.P * self.V
        self.layers = <StreamLayer *> clstm_alloc(num_layers * sizeof(StreamLayer))
        if self.layers == NULL:
            raise MemoryError("not enough memory for a stream")
        memset(self.layers, 0, num_layers * sizeof(StreamLayer))
        self.z = clstm_alloc(rows * 4 * Hp * itemsize)
        self.h = clstm_alloc(rows * Hp * itemsize)
        for k in range(num_layers):
            layer = &self.layers[k]
            layer.I = hidden_size if k else input_size
            layer.depth = layer.I + hidden_size
            layer.row = (layer.I + self.V - 1) // self.V * self.V + Hp
            layer.panels = clstm_alloc(self.P * layer.depth * 4 * self.V * itemsize)
            layer.bias_z = clstm_alloc(4 * Hp * itemsize)
            layer.operands = clstm_alloc(rows * layer.row * itemsize)
            layer.c = clstm_alloc(rows * Hp * itemsize)
            if layer.panels == NULL or layer.bias_z == NULL or layer.operands == NULL or layer.c == NULL:
                raise MemoryError("not enough memory for a stream")
            memset(layer.operands, 0, rows * layer.row * itemsize)
            memset(layer.c, 0, rows * Hp * itemsize)
        if self.z == NULL or self.h == NULL:
            raise MemoryError("not enough memory for a stream")

    def __dealloc__(self):
        cdef Py_ssize_t k
        if self.layers != NULL:
            for k in range(self.L):
                clstm_free(self.layers[k].panels)
                clstm_free(self.layers[k].bias_z)
                clstm_free(self.layers[k].operands)
                clstm_free(self.layers[k].c)
        clstm_free(self.layers)
        clstm_free(self.z)
        clstm_free(self.h)

    def pack(self, Py_ssize_t k, W_x not None, W_h not None, bias not None):
        """Take a snapshot of the weights of layer k."""
        if self.single:
            pack_stream_layer[float](&self.layers[k], self.H, W_x, W_h, bias)
        else:
            pack_stream_layer[double](&self.layers[k], self.H, W_x, W_h, bias)

    def put_state(self, Py_ssize_t k, Py_ssize_t row, h, c):
        """Set the state of one row of layer k from arrays (H,)."""
        if self.single:
            copy_state[float](self, k, row, h, c, True)
        else:
            copy_state[double](self, k, row, h, c, True)

    def get_state(self, Py_ssize_t k, Py_ssize_t row, h, c):
        """Copy the state of one row of layer k to arrays (H,)."""
        if self.single:
            copy_state[float](self, k, row, h, c, False)
        else:
            copy_state[double](self, k, row, h, c, False)

    def try_step(self, x, out):
        """Step all layers from x (rows, I) to out (rows, H), without the axis of rows if not batched.

        Returns False, with nothing changed, if either is no contiguous array of that shape and of the stream's dtype.
        """
        cdef Py_buffer x_view
        cdef Py_buffer out_view
        cdef bint taken = False
        if PyObject_GetBuffer(x, &x_view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0:
            PyErr_Clear()
            return False
        if PyObject_GetBuffer(out, &out_view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0:
            PyErr_Clear()
            PyBuffer_Release(&x_view)
            return False
        if self.fits(&x_view, self.I) and self.fits(&out_view, self.H) and not self.stepping:
            taken = self.stepping = True
            if self.rows * self.L * self.H * self.H < 30000:    # a few microseconds, less than others wait for the GIL
                self.run(x_view.buf, out_view.buf)
            else:
                with nogil:
                    self.run(x_view.buf, out_view.buf)
            self.stepping = False
        PyBuffer_Release(&x_view)
        PyBuffer_Release(&out_view)
        return taken

    cdef bint fits(self, const Py_buffer *view, Py_ssize_t features) noexcept:
        return (
            view.ndim == self.ndim
            and view.shape[self.ndim - 1] == features
            and (self.ndim == 1 or view.shape[0] == self.rows)
            and view.format[0] == (c'f' if self.single else c'd')
            and view.format[1] == 0
            and (<size_t> view.buf) % view.itemsize == 0
        )

    cdef void run(self, const void *x, void *out) noexcept nogil:
        cdef fp_state caller = flush_denormals()
        if self.single:
            stream_step(self, <const float *> x, <float *> out)
        else:
            stream_step(self, <const double *> x, <double *> out)
        restore_denormals(caller)


cdef inline floating *operands_of(const StreamLayer *layer, Py_ssize_t r, const floating *like) noexcept nogil:
    """The row [x; h] of a layer; it begins so that h is aligned."""
    cdef Py_ssize_t V = lanes(like)
    return <floating *> layer.operands + r * layer.row + (layer.I + V - 1) // V * V - layer.I


cdef int pack_stream_layer(StreamLayer *layer, Py_ssize_t H, const floating[:, ::1] W_x, const floating[:, ::1] W_h,
                           const floating[::1] bias) except -1:
    cdef Py_ssize_t V = lanes(&bias[0]), k
    cdef Py_ssize_t P = (H + V - 1) // V
    for k in range(layer.depth):
        pack_row(&W_x[k, 0] if k < layer.I else &W_h[k - layer.I, 0], H, 0, P, layer.depth * 4 * V,
                 <floating *> layer.panels + k * 4 * V)
    pack_row(&bias[0], H, 0, P, 4 * V, <floating *> layer.bias_z)
    return 0


cdef int copy_state(Stream stream, Py_ssize_t k, Py_ssize_t row, floating[::1] h, floating[::1] c, bint put) except -1:
    cdef StreamLayer *layer = &stream.layers[k]
    cdef floating *own_h = operands_of(layer, row, &h[0]) + layer.I
    cdef floating *own_c = <floating *> layer.c + row * stream.P * stream.V
    cdef Py_ssize_t size = stream.H * sizeof(floating)
    memcpy(own_h if put else &h[0], &h[0] if put else own_h, size)
    memcpy(own_c if put else &c[0], &c[0] if put else own_c, size)
    return 0


cdef void stream_step(Stream stream, const floating *x, floating *out) noexcept nogil:
    cdef Py_ssize_t V = lanes(x), H = stream.H, P = stream.P, k, r
    cdef Py_ssize_t Hp = P * V
    cdef Share share = share_of(False, 0, 1, P)
    cdef floating *h = <floating *> stream.h
    cdef StreamLayer *layer
    stream.descending = not stream.descending
    for k in range(stream.L):
        layer = &stream.layers[k]
        for r in range(stream.rows):
            memcpy(operands_of(layer, r, x), <const floating *> h + r * Hp if k else x + r * layer.I,
                   layer.I * sizeof(floating))
        recur(operands_of(layer, 0, x), layer.row, <const floating *> layer.panels, layer.depth, stream.rows, share, P,
              stream.descending, <const floating *> layer.bias_z, 0, 4 * V, <floating *> stream.z, stream.rows * 4 * V,
              <floating *> layer.c, h)
        for r in range(stream.rows):
            memcpy(operands_of(layer, r, x) + layer.I, h + r * Hp, H * sizeof(floating))
    for r in range(stream.rows):
        memcpy(out + r * H, h + r * Hp, H * sizeof(floating))
