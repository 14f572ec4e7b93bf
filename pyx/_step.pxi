# Single steps of one row in float64 with the weights as they lie, for one layer; included by _kernels.pyx.

@auto_pickle(False)
cdef class Step:
    """One layer whose weights are read where they lie, step after step: the fast path under the step methods of clstm.compat.

    The buffers of the weights stay acquired, so that a call costs five arguments; what is changed in place counts at once.  The
    sums run in the order of `forward`, so that the bits are the same.
    """

    cdef Py_buffer weights[3]       # W_x (I, 4H), W_h (H, 4H), bias (4H,)
    cdef int acquired
    cdef Py_ssize_t I, H
    cdef bint stepping
    cdef double *flat               # 1 with its gates side by side, (4H,)
    cdef double *z                  # (P, 4, V)
    cdef double *c                  # (Hp,)
    cdef double *h                  # (Hp,)

    def __cinit__(self, W_x not None, W_h not None, bias not None):
        cdef Py_ssize_t Hp
        for array in (W_x, W_h, bias):
            if PyObject_GetBuffer(array, &self.weights[self.acquired], PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0:
                PyErr_Clear()
                raise ValueError("weights are not contiguous")
            self.acquired += 1
        self.I, self.H = self.weights[0].shape[0], self.weights[1].shape[0]
        Hp = (self.H + LANES_F64 - 1) // LANES_F64 * LANES_F64
        self.flat = <double *> clstm_alloc(4 * self.H * sizeof(double))
        self.z = <double *> clstm_alloc(4 * Hp * sizeof(double))
        self.c = <double *> clstm_alloc(Hp * sizeof(double))
        self.h = <double *> clstm_alloc(Hp * sizeof(double))
        if self.flat == NULL or self.z == NULL or self.c == NULL or self.h == NULL:
            raise MemoryError("not enough memory for a step")
        memset(self.c, 0, Hp * sizeof(double))

    def __dealloc__(self):
        cdef int n
        for n in range(self.acquired):
            PyBuffer_Release(&self.weights[n])
        clstm_free(self.flat)
        clstm_free(self.z)
        clstm_free(self.c)
        clstm_free(self.h)

    def try_step(self, x, h_prev, c_prev, h, c):
        """Step from columns x (I, 1), h_prev, c_prev (H, 1) to columns h, c (H, 1).

        Returns False, with nothing changed, if one is no contiguous float64 array of that shape, or if another
        thread is in the middle of a step.
        """
        cdef Py_buffer views[5]
        cdef int n = 0
        cdef bint taken = True
        cdef tuple arrays = (x, h_prev, c_prev, h, c)
        for array in arrays:
            if PyObject_GetBuffer(array, &views[n], PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if n > 2 else 0)) < 0:
                PyErr_Clear()
                taken = False
                break
            n += 1
            if not self.fits(&views[n - 1], self.H if n > 1 else self.I):
                taken = False
                break
        taken = taken and not self.stepping
        if taken:
            self.stepping = True
            if self.H * self.H < 30000:         # as for a stream
                self.run(<double *> views[0].buf, <double *> views[1].buf, <double *> views[2].buf, <double *> views[3].buf,
                         <double *> views[4].buf)
            else:
                with nogil:
                    self.run(<double *> views[0].buf, <double *> views[1].buf, <double *> views[2].buf,
                             <double *> views[3].buf, <double *> views[4].buf)
            self.stepping = False
        while n > 0:
            n -= 1
            PyBuffer_Release(&views[n])
        return taken

    cdef inline bint fits(self, const Py_buffer *view, Py_ssize_t n) noexcept:
        return (
            view.ndim == 2 and view.shape[0] == n and view.shape[1] == 1
            and view.format[0] == c'd'
            and view.format[1] == 0
            and (<size_t> view.buf) % view.itemsize == 0
        )

    cdef void run(self, const double *x, const double *h_prev, const double *c_prev, double *h, double *c) noexcept nogil:
        cdef fp_state caller = flush_denormals()
        memcpy(self.c, c_prev, self.H * sizeof(double))
        unpacked_row(x, self.I, h_prev, self.H, <const double *> self.weights[0].buf, <const double *> self.weights[1].buf,
                     <const double *> self.weights[2].buf, self.flat, self.z, 4 * LANES_F64, self.c, self.h)
        memcpy(h, self.h, self.H * sizeof(double))
        memcpy(c, self.c, self.H * sizeof(double))
        restore_denormals(caller)
